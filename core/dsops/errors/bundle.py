"""What is wrong with a bundle, or with a model that shall become one."""

from dsops.errors.base import DsopsError


class BundleError(DsopsError):
    """The artifact is at fault."""

    code = "bundle"


class MalformedBundle(BundleError):
    """The bytes do not follow the bundle format."""

    code = "bundle.malformed"
    default_hint = "build or fetch the bundle again; the file is damaged or is not a dsops bundle"


class UnreadableBundle(MalformedBundle):
    """A bundle's file is absent or cannot be read: what it holds is not at fault."""

    code = "bundle.unreadable"
    default_hint = "check the path, who may read it, and the disk"


class DigestMismatch(BundleError):
    """Bytes differ from the digest that was signed."""

    code = "bundle.digest_mismatch"
    default_hint = "fetch the bundle again; if it happens twice, the copy at the source is damaged"


class UntrustedBundle(BundleError):
    """A signature, role, version or policy rule refused it."""

    code = "bundle.untrusted"
    default_hint = "sign the bundle with the model owner's key, or check which trust root the device holds"


class ContentSealed(BundleError):
    """An encrypted payload cannot be opened: no key came for this device, or it is not the right one."""

    code = "bundle.sealed"
    default_hint = "let the controller send a new directive, and check that it holds the bundle's content key"


class IncompatibleBundle(BundleError):
    """The device cannot run it: hardware, runtime version or operators."""

    code = "bundle.incompatible"
    default_hint = "build a variant for this class of hardware"


class WrongHardware(IncompatibleBundle):
    """A bundle was signed for other classes of hardware."""

    code = "bundle.wrong_hardware"


class RuntimeTooOld(IncompatibleBundle):
    """A bundle needs a newer inference runtime than the device has."""

    code = "incompatible.runtime"
    default_hint = "update ai-edge-litert on the device, or build for its version"


class OperatorMissing(IncompatibleBundle):
    """The device's runtime does not know an operator, or not in the version that the model uses."""

    code = "incompatible.operator"
    default_hint = "update ai-edge-litert on the device, or build without the operator"


class ContractBroken(IncompatibleBundle):
    """Inputs or outputs are not those that programs on the device use now."""

    code = "incompatible.tensors"
    default_hint = "if the programs are ready for it: dsops rollout create --changes-contract"


class DelegateMissing(IncompatibleBundle):
    """A bundle needs an accelerator that the device does not have."""

    code = "incompatible.delegate"


class OverMemory(IncompatibleBundle):
    """A bundle needs more memory than the device has."""

    code = "incompatible.memory"
    default_hint = "build a smaller variant for this class of hardware"


class OverSize(IncompatibleBundle):
    """A bundle is larger than the device, or its own budget, allows."""

    code = "incompatible.size"
    default_hint = "build a smaller variant for this class of hardware"


class TooSlow(IncompatibleBundle):
    """A frame takes longer on the device than the budget allows."""

    code = "incompatible.latency"
    default_hint = "build a faster variant for this class of hardware"


class GoldenMismatch(BundleError):
    """The model does not give the expected outputs for its golden inputs."""

    code = "bundle.golden_mismatch"
    default_hint = "build the bundle again: payload, labels and golden inputs do not belong together"


class InvalidModel(BundleError):
    """A model file is not one, or its structure is unsound."""

    code = "model.invalid"
    default_hint = "export the model again"


class NotFinite(InvalidModel):
    """A model answered with NaN or infinity."""

    code = "model.not_finite"
    default_hint = "look for overflows and divisions by zero in the model, and calibrate it on data of this kind"


class UnsupportedModel(BundleError):
    """A model uses an operator or a shape that cannot be converted."""

    code = "model.unsupported"
    default_hint = "replace the operator, or convert the model to TFLite by another tool and give that file"


class AccuracyGateFailed(BundleError):
    """The quantized model is worse than its gate allows."""

    code = "model.accuracy_gate"
    default_hint = "give more calibration data, choose another quantization mode, or change the gate"


class UnfitModel(BundleError):
    """A bundle that passed its proof does not stand the test of service on a device."""

    code = "unfit"
    default_hint = "compare the device's telemetry of both releases; then build a new release"


class ErrorsRose(UnfitModel):
    """A model fails at more requests than it may."""

    code = "unfit.errors"
    default_hint = "send the requests that fail to the model by hand; its inputs may not be what it was built for"


class LatencyRose(UnfitModel):
    """A model takes longer in service than the release before it, or than its budget."""

    code = "unfit.latency"
    default_hint = "build a faster variant for this class of hardware, or allow more: max_latency_ms in the manifest"


class OutputsMoved(UnfitModel):
    """A model's answers are spread neither as on its own reference data nor as those of the release before it."""

    code = "unfit.outputs"
    default_hint = "look at samples of the device: labels, preprocessing or calibration may be wrong"


class CrashLoop(UnfitModel):
    """A model ended the inference process again and again."""

    code = "unfit.crashes"
    default_hint = "look at the device's log for the signal, and run the model on its samples in a process of its own"


class ModelHung(UnfitModel):
    """A model did not come back from frames, too often or for too long, so that the inference process was ended."""

    code = "unfit.hangs"
    default_hint = "run the model on samples of the device; if it is just slow, raise its budget or install.hang_s"


class NothingLeft(UnfitModel):
    """A model broke down, and so did the release before it, or there is none: the model is not served."""

    code = "unfit.nothing_left"
    default_hint = "roll out a release that is sound, or pardon the one that was stopped in error"
