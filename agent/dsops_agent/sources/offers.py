"""What ``dsops-agent install`` leaves for the agent, and how the agent takes it.

An offer names a bundle file or a kit. It makes the folder source look there, and hands the kit's head and directive to
the installer, as if they had come over the network. It stays on disk until the install ends, so that an agent which is
started again in the meantime goes on with it.
"""

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field

from dsops import strictjson
from dsops.bundle import Bundle, file_digest, file_index, sha256_hex
from dsops.clock import Clock
from dsops.directive import claimed_seq
from dsops.errors import Conflict, DsopsError, InvalidInput, SourceLies
from dsops.files import write_atomically
from dsops.kit import KIT_FILE, MAX_KIT_BYTES, Kit, KitBundle
from dsops.manifest import Frozen
from dsops.messages import MAX_MESSAGE_BYTES, ModelState, Problem, decode
from dsops.needs import needs_of
from dsops_agent.install.places import challenger_place, states_by_place
from dsops_agent.sources.folder import FolderSource, Place
from dsops_agent.sources.regular import read_whole
from dsops_agent.status import OfferStatus

logger = logging.getLogger(__name__)

_FILE = "offer.json"
_MAX_BYTES = 8 * 1024
_LOOK_S = 0.5
_PATIENCE_S = 15.0
"""A little longer than a directive waits for newer trust metadata: what is refused by then stays refused."""


class Offer(Frozen):
    """The file that is left."""

    v: int = Field(default=1, ge=1, le=1)
    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    path: str = Field(pattern=r"^/[^\x00]*$", max_length=4096)


def leave(state: Path, path: Path) -> str:
    """Leave an offer for the agent of a state folder, in place of one before; return its id.

    Raises:
        NoSpace: The disk is full.
        OSError: The folder cannot be written.
    """
    offer = Offer(id=secrets.token_hex(8), path=str(path))
    folder = state / "offers"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / _FILE, strictjson.dumps(offer.model_dump(mode="json")))
    return offer.id


class Taker(Protocol):
    """The installer, as far as offers go."""

    def on_trust_head(self, data: bytes) -> None:
        """Take the head of the trust metadata."""
        ...

    def on_directive(self, data: bytes) -> None:
        """Take a directive's envelope."""
        ...

    def observed(self) -> Mapping[str, ModelState]:
        """Return the state of every model."""
        ...

    def reached(self) -> int:
        """Return the ``seq`` of the newest directive that :meth:`observed` shows the effect of."""
        ...

    def refused(self) -> Problem | None:
        """Return why the newest message was refused, if it was."""
        ...


class Attention(Protocol):
    """The chain, as far as offers go."""

    def renewed(self, source: str) -> None:
        """Ask a source, which has something new."""
        ...

    def withdrawn(self, source: str) -> None:
        """Do not ask a source any more, which has nothing."""
        ...


@dataclass
class _Taken:
    """An offer that the agent works with; ``seq`` is of the directive that it brings, 0 when it brings none."""

    offer: Offer
    since_s: float
    refused_before: Problem | None
    bundles: Mapping[str, str]
    seq: int = 0
    is_reached: bool = False
    problem: Problem | None = None
    hint: str = ""
    is_over: bool = False


class Offers:
    """Takes offers. :meth:`run` is a thread.

    Args:
        folder: Where they are left.
        source: Reads what is offered.
        chain: Is told when there is something to read, and when there is nothing any more.
        taker: Takes what a kit says.
        clock: Time.
    """

    def __init__(self, folder: Path, source: FolderSource, chain: Attention, taker: Taker, clock: Clock) -> None:
        self._path = folder / _FILE
        self._source = source
        self._chain = chain
        self._taker = taker
        self._clock = clock
        self._taken: _Taken | None = None
        self._doubt = ""

    def run(self, stop: threading.Event) -> None:
        """Look for offers until ``stop`` is set."""
        while not stop.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Take a new offer, or see how the one before goes. A disk that fails costs the offer, and nothing else."""
        try:
            offer = self._read()
        except (DsopsError, OSError) as error:
            if str(error) != self._doubt:
                logger.warning("an offer is not taken: %s", error)
            self._doubt = str(error)
            self._remove()
            return
        self._doubt = ""
        if offer and (self._taken is None or self._taken.offer.id != offer.id):
            self._take(offer)
        elif self._taken and not self._taken.is_over:
            self._follow(self._taken)

    def status(self) -> OfferStatus | None:
        """Return what became of the newest offer since the start; None when there was none."""
        taken = self._taken
        if taken is None:
            return None
        offer, bundles = taken.offer, dict(taken.bundles)
        return OfferStatus(
            id=offer.id,
            path=offer.path,
            bundles=bundles,
            is_reached=taken.is_reached,
            problem=taken.problem,
            hint=taken.hint,
        )

    def _read(self) -> Offer | None:
        if not self._path.exists():
            return None
        return decode(Offer, read_whole(self._path, _MAX_BYTES))

    def _take(self, offer: Offer) -> None:
        logger.info("%s is offered", offer.path)
        taken = _Taken(offer, self._clock.monotonic_s(), self._taker.refused(), {})
        try:
            path = Path(offer.path)
            if path.is_dir():
                taken.bundles, taken.seq = self._take_kit(path)
            else:
                taken.bundles = self._take_bundle(path)
        except (DsopsError, OSError) as error:
            self._end(taken, error)
        self._taken = taken

    def _take_kit(self, folder: Path) -> tuple[Mapping[str, str], int]:
        kit = decode(Kit, read_whole(folder / KIT_FILE, MAX_KIT_BYTES))
        head, directive = (_checked(folder, digest) for digest in (kit.head, kit.directive))
        self._source.place = Place(folder)
        self._chain.renewed(self._source.name)
        self._taker.on_trust_head(head)
        self._taker.on_directive(directive)
        return {_place(bundle): bundle.sha256 for bundle in kit.bundles}, claimed_seq(directive)

    def _take_bundle(self, path: Path) -> Mapping[str, str]:
        index, sha256 = file_index(path), file_digest(path)[0]
        states = states_by_place(self._taker.observed())
        wanted = [place for place, state in states.items() if state.target == sha256]
        if not wanted:
            raise Conflict(
                "no directive wants this bundle",
                why=f"its digest is {sha256}",
                hint="bring what the device shall run as well: dsops device kit DEVICE --out FOLDER",
            )
        needs = needs_of(Bundle.open(path).manifest, index.length_bytes)
        held = {index.digest: index.encode(), needs.digest: needs.encode()}
        self._source.place = Place(files={sha256: path}, held=held)
        self._chain.renewed(self._source.name)
        return {wanted[0]: sha256}

    def _follow(self, taken: _Taken) -> None:
        taken.is_reached = taken.is_reached or self._taker.reached() >= taken.seq
        observed = self._taker.observed() if taken.is_reached else {}  # before, it shows how another install ended
        found = states_by_place(observed)
        states = [found[place] for place, sha in taken.bundles.items() if place in found and found[place].target == sha]
        if len(states) == len(taken.bundles):
            taken.problem = None
            if all(state.install.is_final for state in states):
                self._end(taken)
            return
        refused = self._taker.refused()
        is_certain = refused != taken.refused_before or self._clock.monotonic_s() - taken.since_s > _PATIENCE_S
        if refused and is_certain:
            taken.problem = refused

    def _end(self, taken: _Taken, error: DsopsError | OSError | None = None) -> None:
        taken.is_over = True
        self._remove()
        self._source.place = Place()
        self._chain.withdrawn(self._source.name)
        if error:
            named = (
                error if isinstance(error, DsopsError) else InvalidInput("it cannot be read", why=str(error.strerror))
            )
            logger.warning("%s is not taken: %s", taken.offer.path, named)
            taken.problem, taken.hint = Problem(code=named.code, message=str(named)[:1000]), named.hint

    def _remove(self) -> None:
        """Remove the offer's file; where that fails it is taken once more after the next start, which does no harm."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("an offer stays on disk: %s", error)


def _place(bundle: KitBundle) -> str:
    return challenger_place(bundle.model) if bundle.is_challenger else bundle.model


def _checked(folder: Path, digest: str) -> bytes:
    data = read_whole(folder / digest, MAX_MESSAGE_BYTES)
    if sha256_hex(data) != digest:
        raise SourceLies("the kit is damaged", why=f"{digest} has other bytes", hint="make it again: dsops device kit")
    return data
