"""Runs transfers for installs, one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dsops.clock import Clock
from dsops.errors import BundleError, DsopsError
from dsops.messages import Problem
from dsops_agent.install import fetch
from dsops_agent.install.delivery import Delivery, Ways
from dsops_agent.install.journal import InstallRow
from dsops_agent.install.machine import Event
from dsops_agent.install.ports import Chunk, ChunkSource
from dsops_agent.install.spending import Spending
from dsops_agent.install.steps import Outcome, problem_of


@dataclass(frozen=True)
class Means:
    """What transfers need of the device.

    Attributes:
        base: Finds the bundle that an install's delta begins at; raises ``DeltaFailed`` when no slot holds it whole,
            ``NoSpace`` when the disk cannot take the delta, too.
        failed: Tells that an install's delta failed.
        installed: Returns the bundles on the device.
        spending: The device's transfer budget.
        is_at_hand: Tells whether a bundle lies on the device as a file, for example on a stick.
    """

    base: Callable[[InstallRow], Path]
    failed: Callable[[InstallRow, DsopsError], None]
    installed: Callable[[], Iterable[Path]] = tuple
    spending: Spending | None = None
    is_at_hand: Callable[[str], bool] = field(default=lambda _sha256: False)


class Carrier:
    """The one transfer under way, if there is one.

    Args:
        staging: Folder of the files under way.
        source: Where chunks are asked for.
        pace: How to ask.
        clock: Time.
        means: What transfers need of the device.
    """

    def __init__(self, staging: Path, source: ChunkSource, pace: fetch.Pace, clock: Clock, means: Means) -> None:
        self._staging = staging
        self._source = source
        self._pace = pace
        self._clock = clock
        self._means = means
        self._transfer: Delivery | None = None
        self.model = ""
        """The model whose bundle is being fetched; empty when none is."""

    @property
    def next_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return self._transfer.next_s if self._transfer else None

    def progress(self, model: str) -> float:
        """Return the share of a model's bundle that the transfer under way has."""
        return self._transfer.progress if self._transfer and self.model == model else 0.0

    def waiting(self, model: str) -> str:
        """Return what the transfer of a model's bundle waits for; empty when it goes on, or when there is none."""
        return self._transfer.waiting if self._transfer and self.model == model else ""

    def is_at_hand(self, row: InstallRow) -> bool:
        """Return whether an install's bundle lies on the device, on a medium that is not set aside for its faults."""
        sha256 = row.wanted.sha256
        return self._means.is_at_hand(sha256) and self._source.has_near(Chunk(row.index, sha256))

    def start(self, row: InstallRow) -> Outcome | None:
        """Begin or resume an install's transfer; None while it goes on. There must be none under way."""
        wanted = fetch.Wanted(row.wanted.sha256, row.wanted.length_bytes, row.index)
        base, failed = partial(self._means.base, row), partial(self._means.failed, row)
        ways = Ways(self._begin, base, failed, partial(self._means.is_at_hand, wanted.sha256))
        self._transfer = Delivery(self._staging, wanted, row.wanted.delta, ways)
        self.model = row.model
        return self._run(lambda transfer, now_s: transfer.start(now_s))

    def _begin(self, wanted: fetch.Wanted) -> fetch.Transfer:
        installed, spending = self._means.installed(), self._means.spending
        return fetch.Transfer(self._staging, wanted, self._source, self._pace, installed=installed, spending=spending)

    def arrived(self, digest: str, data: bytes) -> Outcome | None:
        """Take a chunk; return how the transfer ended, or None while it goes on."""
        return self._run(lambda transfer, now_s: transfer.arrived(digest, data, now_s))

    def lost(self, digest: str, problem: Problem) -> Outcome | None:
        """Take note that a source cannot bring a chunk; returns as :meth:`arrived`."""
        return self._run(lambda transfer, now_s: transfer.lost(digest, problem, now_s))

    def wasted(self, digest: str) -> Outcome | None:
        """Count a chunk whose bytes came for nothing against the budget; returns as :meth:`arrived`."""
        return self._run(lambda transfer, _now_s: transfer.wasted(digest))

    def tick(self) -> Outcome | None:
        """Let time pass; returns as :meth:`arrived`."""
        return self._run(lambda transfer, now_s: transfer.tick(now_s))

    def reconnected(self) -> Outcome | None:
        """Begin to wait anew for what is outstanding; returns as :meth:`arrived`."""
        return self._run(lambda transfer, now_s: transfer.reconnected(now_s))

    def receiving(self) -> Outcome | None:
        """Note that bytes come, which may be those of a chunk; returns as :meth:`arrived`."""
        return self._run(lambda transfer, now_s: transfer.receiving(now_s))

    def end(self) -> None:
        """Stop the transfer; what came stays on disk."""
        transfer, self._transfer, self.model = self._transfer, None, ""
        if transfer:
            transfer.close()

    def staged_names(self) -> frozenset[str]:
        """Return the names of the files under way; raises StateDamaged."""
        return fetch.staged_names(self._staging)

    def remove(self, names: frozenset[str]) -> None:
        """Remove files under way; raises StateDamaged."""
        fetch.remove(self._staging, names)

    def _run(self, action: Callable[[Delivery, float], None]) -> Outcome | None:
        transfer = self._transfer
        if transfer is None:
            return None
        try:
            action(transfer, self._clock.monotonic_s())
        except DsopsError as error:
            self.end()
            # When the signed bytes themselves are at fault, trying again cannot help.
            event = Event.REFUSED if isinstance(error, BundleError) else Event.INTERRUPTED
            return Outcome(event, problem_of(error))
        except BaseException:
            self.end()  # or no other transfer could ever begin
            raise
        if transfer.done:
            self.end()
            return Outcome(Event.COMPLETE)
        return None
