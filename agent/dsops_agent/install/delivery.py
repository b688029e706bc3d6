"""How one bundle comes: as a delta from an installed one where that saves enough, otherwise chunk by chunk.

A delta is a file like any other and comes by the same transfer. Whatever is wrong with it or its base, the bundle's own
chunks are fetched instead, and none that is on the disk is fetched again. A delta that failed is not tried again while
the install lasts: ``<sha256>.nodelta`` beside the file under way names it.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsops.bundle import file_digest
from dsops.chunks import ChunkIndex
from dsops.delta import Ends, is_worth
from dsops.directive import DeltaOffer, DesiredSlot
from dsops.errors import BundleError, DeltaFailed, DsopsError, MalformedBundle, NoSpace, TransferFailed
from dsops.files import write_atomically
from dsops.messages import Problem
from dsops_agent.install.fetch import Transfer, Wanted, part_path
from dsops_agent.install.rebuild import Files, Rebuild
from dsops_agent.install.slots import disk_errors

logger = logging.getLogger(__name__)

_FETCHED_SHARE = 0.9
"""How much of the progress is fetching a delta; the rest is making the bundle of it."""


@dataclass(frozen=True)
class Ways:
    """What a delivery needs of the agent.

    Attributes:
        begin: Makes a transfer of a file.
        base: Returns the installed bundle that the delta begins at; raises ``DeltaFailed`` when there is none, and
            ``NoSpace`` when the disk cannot take the delta besides.
        failed: Tells that the delta failed.
        is_at_hand: Tells whether the whole bundle lies on this device: then a delta saves nothing.
    """

    begin: Callable[[Wanted], Transfer]
    base: Callable[[], Path]
    failed: Callable[[DsopsError], None]
    is_at_hand: Callable[[], bool]


class Delivery:
    """Brings one bundle into its part file. Single-threaded; used like a :class:`~dsops_agent.install.fetch.Transfer`.

    Args:
        staging: Folder of the files under way.
        wanted: The bundle.
        offer: A delta that leads to it, if there is one.
        ways: What it needs.
    """

    def __init__(self, staging: Path, wanted: Wanted, offer: DeltaOffer | None, ways: Ways) -> None:
        self._staging = staging
        self._wanted = wanted
        self._offer = offer
        self._ways = ways
        self._transfer: Transfer | None = None
        self._rebuild: Rebuild | None = None
        self._base: Path | None = None
        self._doubt: DsopsError | None = None
        self._began = 0.0
        self.done = False

    @property
    def progress(self) -> float:
        """Share of the work that is done, 0 to 1; it begins anew when a delta fails."""
        if self._rebuild:
            return _FETCHED_SHARE + (1 - _FETCHED_SHARE) * self._rebuild.progress
        fetched = self._transfer.progress if self._transfer else 0.0
        return fetched * _FETCHED_SHARE if self._base else fetched

    @property
    def waiting(self) -> str:
        """What the transfer waits for: its budget, or somebody to ask; empty when it goes on."""
        return self._transfer.waiting if self._transfer and not self._rebuild else ""

    @property
    def next_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        if self._rebuild:
            return 0.0
        return self._transfer.next_s if self._transfer else None

    def start(self, now_s: float) -> None:
        """Begin, or resume from what the staging folder holds.

        Raises:
            TransferFailed: It was given up.
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
            MalformedBundle: The signed index is none, or is of a file of another length.
            DigestMismatch: Index and bundle do not agree.
        """
        if self._offer and self._is_made():
            self.done = True
            return
        self._base = self._choose()
        if self._offer and self._base:
            delta = Wanted(self._offer.sha256, self._offer.length_bytes, self._offer.index)
            self._transfer = self._ways.begin(delta)
            self._run(lambda transfer: transfer.start(now_s), now_s)
        else:
            self._fetch_whole(now_s)

    def arrived(self, digest: str, data: bytes, now_s: float) -> None:
        """Take one chunk from anywhere; it counts only if it was asked for. Errors as in :meth:`start`."""
        self._run(lambda transfer: transfer.arrived(digest, data, now_s), now_s)

    def lost(self, digest: str, problem: Problem, now_s: float) -> None:
        """Ask elsewhere for a chunk that a source cannot bring. Errors as in :meth:`start`."""
        self._run(lambda transfer: transfer.lost(digest, problem, now_s), now_s)

    def wasted(self, digest: str) -> None:
        """Count a chunk whose bytes came for nothing against the budget."""
        if self._transfer:
            self._transfer.wasted(digest)

    def tick(self, now_s: float) -> None:
        """Ask again for what is late, or make a slice of the bundle. Errors as in :meth:`start`."""
        if self._rebuild:
            self._go_on(self._rebuild, now_s)
        else:
            self._run(lambda transfer: transfer.tick(now_s), now_s)

    def reconnected(self, now_s: float) -> None:
        """Begin to wait anew for everything that is outstanding."""
        self._run(lambda transfer: transfer.reconnected(now_s), now_s)

    def receiving(self, now_s: float) -> None:
        """Note that bytes come, which may be those of a chunk."""
        self._run(lambda transfer: transfer.receiving(now_s), now_s)

    def close(self) -> None:
        """Stop asking and close the files; what came stays for the next time."""
        if self._rebuild:
            self._rebuild.close()
        if self._transfer:
            self._transfer.close()

    # Which way.

    def _is_made(self) -> bool:
        """Return whether the bundle was made of a delta before, and stands there whole; it came without an index."""
        path = part_path(self._staging, self._wanted.sha256)
        with suppress(OSError):
            if not _index_path(self._staging, self._wanted.sha256).exists() and path.exists():
                return file_digest(path) == (self._wanted.sha256, self._wanted.length_bytes)
        return False

    def _choose(self) -> Path | None:
        """Return the base when the delta shall be used."""
        if self._offer is None or self._has_failed(self._offer) or not self._saves(self._offer):
            return None
        if self._ways.is_at_hand():
            return None
        try:
            return self._ways.base()
        except NoSpace as error:
            logger.info("the delta is left out: %s", error)
        except DeltaFailed as error:
            self._give_up(error)
        return None

    def _saves(self, offer: DeltaOffer) -> bool:
        delta = offer.length_bytes - held_bytes(self._staging, offer.sha256, offer.index)
        whole = self._wanted.length_bytes - held_bytes(self._staging, self._wanted.sha256, self._wanted.index)
        return is_worth(delta, whole)

    def _has_failed(self, offer: DeltaOffer) -> bool:
        try:
            return self._mark.read_text() == offer.sha256
        except (OSError, ValueError):
            return False

    @property
    def _mark(self) -> Path:
        return self._staging / f"{self._wanted.sha256}.nodelta"

    # The delta.

    def _run(self, action: Callable[[Transfer], None], now_s: float) -> None:
        """Do something with the transfer; a delta that fails is replaced by the whole bundle."""
        if self._transfer is None or self._rebuild or self.done:
            return
        if self._base is None:
            action(self._transfer)
            self._learn(self._transfer)
            return
        try:
            action(self._transfer)
            if self._transfer.done:
                self._begin_making(self._base)
        except TransferFailed as error:
            self._doubt = error if not isinstance(error, DeltaFailed) else None
            self._fall_back(error, now_s)
        except BundleError as error:
            self._fall_back(error, now_s)

    def _begin_making(self, base: Path) -> None:
        assert self._offer is not None, "only an offer has a base"
        assert self._transfer is not None, "a delta was fetched"
        self._transfer.close()
        staging, sha256 = self._staging, self._wanted.sha256
        files = Files(self._transfer.path, base, made_path(staging, sha256), part_path(staging, sha256))
        self._rebuild = Rebuild(files, Ends(self._offer.base, sha256, self._wanted.length_bytes))

    def _go_on(self, rebuild: Rebuild, now_s: float) -> None:
        try:
            self.done = rebuild.go_on()
        except DeltaFailed as error:
            rebuild.close()
            self._rebuild = None
            self._fall_back(error, now_s)
            return
        if self.done:
            logger.info("made %s of a delta", self._wanted.sha256[:16])
            self._remove_delta()

    def _fall_back(self, error: DsopsError, now_s: float) -> None:
        """Fetch the whole bundle, because the delta failed.

        Chunks that do not come may be missing for want of a network: only when others come is that the delta's fault.
        """
        if self._transfer:
            self._transfer.close()
        if self._doubt is None:
            self._give_up(error)
        else:
            logger.info("the delta does not come, the whole bundle is asked for: %s", error)
        self._fetch_whole(now_s)

    def _fetch_whole(self, now_s: float) -> None:
        self._base = None
        self._transfer = self._ways.begin(self._wanted)
        self._transfer.start(now_s)
        self._began = self._transfer.progress
        self._learn(self._transfer)

    def _learn(self, transfer: Transfer) -> None:
        self.done = transfer.done
        if self._doubt and (transfer.done or transfer.progress > self._began):
            doubt, self._doubt = self._doubt, None
            self._give_up(DeltaFailed("the delta did not come, other chunks do", why=str(doubt)))

    def _give_up(self, error: DsopsError) -> None:
        """Never try the delta again for this install."""
        assert self._offer is not None, "only an offer fails"
        failed = error if isinstance(error, DeltaFailed) else DeltaFailed("the delta is not sound", why=str(error))
        logger.warning("the whole bundle is fetched: %s", failed)
        self._ways.failed(failed)
        with disk_errors("keep that a delta failed"):
            self._staging.mkdir(parents=True, exist_ok=True)
            write_atomically(self._mark, self._offer.sha256.encode())
        self._remove_delta()
        made_path(self._staging, self._wanted.sha256).unlink(missing_ok=True)

    def _remove_delta(self) -> None:
        assert self._offer is not None, "there is a delta"
        with suppress(OSError):  # else it is swept when the install ends
            part_path(self._staging, self._offer.sha256).unlink(missing_ok=True)
            _index_path(self._staging, self._offer.sha256).unlink(missing_ok=True)


def made_path(staging: Path, sha256: str) -> Path:
    """Return the file in which a bundle is made of a delta."""
    return staging / f"{sha256}.made"


def names_of(wanted: DesiredSlot) -> frozenset[str]:
    """Return the digests that the files of a delivery are named by."""
    return frozenset({wanted.sha256} | ({wanted.delta.sha256} if wanted.delta else set()))


def held_bytes(staging: Path, sha256: str, index: str) -> int:
    """Return how many bytes of a file under way are there and right; 0 as long as its chunk index is not."""
    try:
        data = _index_path(staging, sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != index:
            return 0
        known = ChunkIndex.decode(data)
        held = 0
        with part_path(staging, sha256).open("rb") as file:
            for span, digest in zip(known.spans, known.digests, strict=True):
                file.seek(span.offset)
                if hashlib.sha256(file.read(span.length)).hexdigest() == digest:
                    held += span.length
    except (OSError, MalformedBundle):
        return 0
    return held


def _index_path(staging: Path, sha256: str) -> Path:
    return staging / f"{sha256}.index"
