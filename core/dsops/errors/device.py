"""What is wrong with the host."""

from dsops.errors.base import DsopsError


class DeviceError(DsopsError):
    """The host is at fault."""

    code = "device"


class NoSpace(DeviceError):
    """The disk is full, or would be."""

    code = "device.no_space"
    default_hint = "free disk space; what was installed before keeps running"


class NoMemory(DeviceError):
    """Memory is short at the moment."""

    code = "device.no_memory"
    default_hint = "end what else needs memory on the device; what was installed before keeps running"


class PortBusy(DeviceError):
    """An address is already in use."""

    code = "device.port_busy"
    default_hint = "stop the program that holds it, or choose another port"


class RuntimeMissing(DeviceError):
    """No TFLite runtime can be loaded."""

    code = "device.runtime_missing"
    default_hint = "pip install 'dsops[agent]'; where LiteRT has no wheel, 'dsops[agent-tflite]' (Python 3.11)"


class RuntimeCrashed(DeviceError):
    """The inference process died or did not answer in time."""

    code = "device.runtime_crashed"
    default_hint = "see the agent's log; the model may be damaged or too large for this device"


class RuntimeBusy(DeviceError):
    """The inference process lives, and did not get to the end of a check in time: no fault of the bundle."""

    code = "device.runtime_busy"
    default_hint = "ask the model less often while a release is on probation, then roll it out again"


class ChallengerAway(RuntimeCrashed):
    """A challenger's process has not started, does not answer in time, or was ended: no fault of its bundle."""

    code = "device.challenger_away"
    default_hint = "the device may be too busy for a challenger; to try again: dsops challenger clear, then set"


class NotServing(DeviceError):
    """No model is active on the device yet."""

    code = "device.not_serving"
    default_hint = "ask again when the agent has activated a model"


class QueueFull(DeviceError):
    """More requests wait than the device takes."""

    code = "device.queue_full"
    default_hint = "ask again in a moment, ask less often, or send several frames in a request"


class Throttled(QueueFull):
    """Inference is held back, because the device is too hot or the runtime has used its share of the processor."""

    code = "device.throttled"
    default_hint = "ask again in a moment, or less often"


class StateDamaged(DeviceError):
    """State on disk cannot be read."""

    code = "device.state_damaged"
    default_hint = "restore the state folder from a backup, or enrol the device again"


class JournalLost(StateDamaged):
    """What a device knew of its installs is damaged; it begins anew with what it kept besides."""

    code = "device.journal_lost"
    default_hint = "look at the device's disk; the damaged file is journal.db.damaged"


class NotRedacted(DeviceError):
    """What must not leave the device could not be taken out of a frame."""

    code = "device.not_redacted"
    default_hint = "correct redact or redact_command in the section samples of the agent's configuration"


class AlreadyRunning(DeviceError):
    """Another process holds the state folder."""

    code = "device.already_running"
    default_hint = "stop the other process first, or use another state folder"
