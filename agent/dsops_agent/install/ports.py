"""What the installer needs from the rest of the agent, and the values it is configured with."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dsops.directive import TransferLimits
from dsops.sealing import ContentKey
from dsops_agent.install.probation import Rules
from dsops_agent.runtime.figures import Figures


@dataclass(frozen=True)
class InstallConfig:
    """Settings of the installer.

    Attributes:
        probation_s: How long a new bundle answers requests before it is committed.
        chunk_timeout_s: Shortest time after which a chunk is asked for again.
        window: Most chunks asked for at one time.
        free_bytes: Disk space that an install must leave free.
        trust_wait_s: How long a directive that the trust metadata does not bear out waits for newer metadata.
        retry_s: First pause before a failed transfer is tried again; it doubles up to ``retry_max_s``.
        retry_max_s: Longest such pause.
        runtime_wait_s: How long a runtime that died has to come back before that counts as one more attempt.
        prove_timeout_s: How long the throw-away process may take, besides the time to read bundles.
        prove_memory_bytes: Address space that the throw-away process may use; 0 sets no limit.
        max_slowdown: How many times the latency of the active bundle a candidate may take; 0 sets no limit.
        transfer: How much may be fetched; a directive can lower it.
        scrub_hours: How often every stored bundle is read again; 0 never.
        max_bundle_bytes: Longest bundle, with the files that it brings; 0 sets no limit.
        rules: What a bundle may do on probation.
        strikes: How often a bundle may end the inference process, within ``strike_span_s``; then it is rolled back.
        strike_span_s: How long such a death counts, in seconds; on probation it counts as long as that lasts.
    """

    probation_s: float = 60.0
    chunk_timeout_s: float = 5.0
    window: int = 16
    free_bytes: int = 16 * 1024 * 1024
    trust_wait_s: float = 10.0
    retry_s: float = 5.0
    retry_max_s: float = 300.0
    runtime_wait_s: float = 30.0
    prove_timeout_s: float = 60.0
    prove_memory_bytes: int = 0
    max_slowdown: float = 2.0
    transfer: TransferLimits = field(default_factory=TransferLimits)
    scrub_hours: float = 24.0
    max_bundle_bytes: int = 0
    rules: Rules = field(default_factory=Rules)
    strikes: int = 3
    strike_span_s: float = 600.0


@dataclass(frozen=True)
class DeviceFacts:
    """Which device this is: its name, its fleet and its class of hardware, for example ``aarch64``.

    ``boot`` names this start of the host; empty where it cannot be told from another.
    """

    device: str
    fleet: str
    hardware: str
    boot: str = ""


@dataclass(frozen=True)
class ProveLimits:
    """What the throw-away process may use, and how slow the candidate may be there.

    Attributes:
        timeout_s: How long the process may take.
        memory_bytes: Its address space; 0 sets no limit.
        champion: The bundle that answers now, which is measured beside the candidate; None compares with nothing.
        slowdown: How many times the champion's latency a candidate may take that states no budget of its own.
        is_challenger: Whether it shall run beside the champion, in a process of its own.
    """

    timeout_s: float
    memory_bytes: int = 0
    champion: Path | None = None
    slowdown: float = 0.0
    is_challenger: bool = False


@dataclass(frozen=True)
class Support:
    """What a device can run: its TFLite runtime, which of the operators asked for it lacks, and its delegates."""

    runtime: str
    version: str
    missing: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Memory that processes here may have: at all, and at this moment."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Suspect:
    """A bundle that was in flight when the inference process died."""

    model: str
    digest: str


@dataclass(frozen=True)
class Death:
    """The end of an inference process that nobody asked for.

    Attributes:
        why: How it ended.
        suspects: The bundles whose frames it ran, as far as their threads can have been the cause.
        hung_s: How long a frame had not come back when it was ended for that; 0 when that was not why.
        is_killed: Whether somebody else killed it, as the kernel does when memory is short: no bundle's fault.
    """

    why: str
    suspects: tuple[Suspect, ...] = ()
    hung_s: float = 0.0
    is_killed: bool = False

    @property
    def is_hang(self) -> bool:
        """Whether it was ended because a frame did not come back."""
        return self.hung_s > 0


@dataclass(frozen=True)
class Chunk:
    """What to ask a source for.

    Attributes:
        digest: SHA-256 of the chunk, hex; a chunk index and a document of trust are chunks too.
        file: SHA-256 of the file that it is part of; empty when it is a file of its own.
        offset: Where it stands in that file, in bytes.
        length: Its length in bytes; 0 when that is not known.
        index: Digest of that file's chunk index; empty when it is a file of its own.
        number: Its number in that index.
        near: Whether only sources may be asked that cost the device's link to the network nothing; it is lost if there
            is none.
    """

    digest: str
    file: str = ""
    offset: int = 0
    length: int = 0
    index: str = ""
    number: int = 0
    near: bool = False


class ChunkSource(Protocol):
    """Brings chunks. No method may block or raise.

    Each chunk comes back through ``Installer.chunk_arrived``; or ``Installer.chunk_lost`` says why it does not; or
    nothing happens. A request holds until it is cancelled: on a new connection the source repeats it by itself.
    """

    def request(self, chunk: Chunk) -> None:
        """Ask for a chunk, again when it is asked for again: then another way should be tried, if there is one."""
        ...

    def cancel(self, digest: str) -> None:
        """Stop waiting for a chunk."""
        ...

    def has_near(self, chunk: Chunk) -> bool:
        """Return whether a chunk would be asked for now where that costs the device's link to the network nothing."""
        ...

    def is_cut_off(self, chunk: Chunk) -> bool:
        """Return whether nobody who may have a chunk can be asked at this moment: then none is asked for, or late."""
        ...

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        """Ask the controller itself for chunks, at most 16 in one call; the broker need not bring them any more."""
        ...


class Room(Protocol):
    """What the host has room for."""

    def memory(self) -> Memory:
        """Return the memory that a process may have."""
        ...

    def disk_bytes(self) -> int:
        """Return the size of the disk that bundles are kept on; raises StateDamaged."""
        ...


class RuntimeControl(Protocol):
    """The inference process.

    Every method raises RuntimeCrashed when the process is gone or silent, except ``is_serving``. A sealed bundle is
    opened with its content key, in the memory of the process that loads it.
    """

    def supports(self, operators: tuple[str, ...]) -> Support:
        """Ask the runtime itself which operators it knows, named as a manifest does; raises RuntimeMissing too."""
        ...

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None, ended: threading.Event) -> None:
        """Run a bundle's golden inputs in a throw-away process. May be called from a thread of its own.

        Raises:
            Cancelled: ``ended`` was set; the process was killed.
            GoldenMismatch: It answers something else.
            InvalidModel: It cannot be loaded.
            RuntimeCrashed: The process died, ran out of memory or out of time.
            DsopsError: Other failures, such as IncompatibleBundle.
        """
        ...

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        """Change the model over to a bundle without losing a request; the same digest again is allowed."""
        ...

    def check(self, model: str) -> None:
        """Run the golden inputs on the live model; raises GoldenMismatch, or RuntimeBusy when it takes too long."""
        ...

    def deactivate(self, model: str) -> None:
        """Stop serving a model; one that is not served is no error."""
        ...

    def figures(self, model: str) -> Figures | None:
        """Return what the bundle that serves a model did since its activation; None when none does."""
        ...

    def is_serving(self, model: str, digest: str) -> bool:
        """Return whether the model answers from that bundle; False when the process is gone."""
        ...


class EventSink(Protocol):
    """Keeps events for the DataOps store."""

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        """Record one event durably.

        ``kind``: refused, committed, rolled_back, failed, slot_damaged, pardoned, journal_lost.
        """
        ...


class Listener(Protocol):
    """Told that observed state changed. Called on the worker; must not block or raise."""

    def changed(self) -> None:
        """Read ``Installer.observed()`` again, soon."""
        ...
