"""What devices and the controller say over MQTT, besides directives and chunks. Every message is at most 64 KB.

Birth and will are plain JSON: who may write them is the broker's access control. Observed state is a DSSE envelope
signed by the device's own key, so that a broker cannot invent a success.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from dsops import dsse, strictjson
from dsops.bundle import sha256_hex
from dsops.chunks import MAX_CHUNKS
from dsops.errors import (
    ForeignReport,
    ForkedReport,
    InvalidInput,
    MalformedReport,
    ReplayedReport,
    UnsignedReport,
    UntrustedBundle,
)
from dsops.manifest import Frozen, Sha256, first_problem
from dsops.states import Install

STATE_TYPE = "application/vnd.dsops.state.v1+json"
MAX_MESSAGE_BYTES = 64 * 1024
MAX_NEED = 64
MAX_ANSWERED = 16
"""Chunks of one file that the controller sends for one request at most: as many as a device's window is wide."""
_MAX_BITMAP_BYTES = -(-MAX_CHUNKS // 8)
MAX_COUNT = 2**53 - 1
"""What every database and every JSON reader holds exactly."""
MAX_PACK_BYTES = 4 * 1024 * 1024

M = TypeVar("M", bound=Frozen)


class Inventory(Frozen):
    """Facts that a device reports about itself."""

    agent_version: str = ""
    hardware: str = ""
    os: str = ""
    python: str = ""
    runtime: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    site: str = Field(default="", max_length=64)
    """Where the device is: devices of one site share a link and its budget."""


class Connection(Frozen):
    """Birth (``online``) or death of one connection. A death counts only if it is of the newest ``conn_seq``."""

    device: str
    online: bool
    boot_id: str = Field(max_length=64)
    conn_seq: int = Field(ge=0, le=MAX_COUNT)
    inventory: Inventory = Inventory()

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))


class Problem(Frozen):
    """Why an install ended badly."""

    code: str = Field(max_length=64)
    message: str = Field(default="", max_length=1000)


class ChallengerState(Frozen):
    """What a device says of a model's challenger.

    ``active`` and ``release`` say what is compared with the champion now; ``install`` and what follows it describe the
    newest one that was wanted, which may have been refused, or dropped since.
    """

    active: Sha256 | None = None
    release: int = Field(default=0, ge=0, le=MAX_COUNT)
    install: Install = Install.IDLE
    deployment: str = ""
    target: Sha256 | None = None
    progress: float = Field(default=0.0, ge=0, le=1)
    waiting: str = Field(default="", max_length=200)
    problem: Problem | None = None


class ModelState(Frozen):
    """What a device says of one model.

    ``active``, ``previous`` and their releases say what runs and what could run again; ``install`` and what follows it
    describe the newest deployment.
    """

    active: Sha256 | None = None
    active_release: int = Field(default=0, ge=0, le=MAX_COUNT)
    previous: Sha256 | None = None
    previous_release: int = Field(default=0, ge=0, le=MAX_COUNT)
    install: Install = Install.IDLE
    deployment: str = ""
    target: Sha256 | None = None
    progress: float = Field(default=0.0, ge=0, le=1)
    """Share of the bundle's chunks that are on the device."""
    waiting: str = Field(default="", max_length=200)
    """What an install that is allowed waits for, for example a maintenance window; empty when it goes on."""
    quarantined: tuple[Sha256, ...] = Field(default=(), max_length=16)
    """Bundles of the model that are never tried again, newest first."""
    problem: Problem | None = None
    challenger: ChallengerState | None = None


class Observed(Frozen):
    """Everything a device says of itself, whole, each time.

    ``counter`` rises by one with every report of a device, across restarts, and ``previous`` names the report before:
    the reports of one device are a chain. ``seq`` is the newest directive that the device accepted.
    """

    device: str
    counter: int = Field(ge=1, le=MAX_COUNT)
    time: AwareDatetime
    seq: int = Field(ge=0, le=MAX_COUNT)
    previous: Sha256 | None = None
    """SHA-256 of the payload of the report before; None in the first."""
    models: dict[str, ModelState] = Field(default={})
    refused: Problem | None = None
    """Why the newest message from the controller was refused, when it was."""
    clock_suspect: bool = False
    """Whether the device's clock contradicts what was signed: ``time`` means little then."""

    def payload(self) -> bytes:
        """Return the bytes that are signed, and that the next report names by their digest."""
        return strictjson.dumps(self.model_dump(mode="json"))

    def sign(self, key: dsse.PrivateKey) -> bytes:
        """Return the signed envelope's bytes."""
        return sign_observed(self.payload(), key)


@dataclass(frozen=True)
class Report:
    """A report whose signature was checked, and the digest of its payload."""

    observed: Observed
    digest: str


@dataclass(frozen=True)
class LastReport:
    """What is known of a device's newest report."""

    counter: int
    digest: str


def sign_observed(payload: bytes, key: dsse.PrivateKey) -> bytes:
    """Return the signed envelope of a report's payload."""
    return dsse.sign(STATE_TYPE, payload, key).encode()


def check_observed(data: bytes, keys: Iterable[dsse.PublicKey], device: str) -> Report:
    """Return a device's report if it is signed by a key of the device and about the device.

    Args:
        data: A DSSE envelope.
        keys: The device's keys that count.
        device: The device that it came from.

    Raises:
        UnsignedReport: No key of the device signed it, or it is no envelope.
        MalformedReport: It is signed, but no report.
        ForeignReport: It is about another device.
    """
    try:
        payload = dsse.verify(data, STATE_TYPE, {dsse.key_id(key): key for key in keys})
    except UntrustedBundle as error:
        raise UnsignedReport(f"a report of {device} is not signed by it", why=str(error)) from error
    try:
        observed = Observed.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise MalformedReport(f"a report of {device} is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise MalformedReport(f"a report of {device} is not valid", why=first_problem(error)) from error
    if observed.device != device:
        raise ForeignReport(f"a report of {device} is about another device", why=observed.device)
    return Report(observed, sha256_hex(payload))


def continues(report: Report, last: LastReport | None) -> bool:
    """Return whether a report is news, and follows from the newest one that is known. Pure.

    Reports get lost on their way, so a gap in the counters is no fault. A device and a copy of its state, which share
    one key, use the same numbers for different reports, and so give each other away.

    Args:
        report: A checked report.
        last: The newest report of the device that was believed; None if there is none.

    Returns:
        False if it is that very report, as a broker that retains it brings it again.

    Raises:
        ReplayedReport: It is older.
        ForkedReport: It has the number of the newest one, or the one after, but does not follow from it.
    """
    if last is None:
        return True
    if report.digest == last.digest:
        return False
    said = report.observed
    if said.counter < last.counter:
        raise ReplayedReport(f"a report of {said.device} is old", why=f"number {said.counter}, {last.counter} is known")
    if said.counter == last.counter:
        raise ForkedReport(f"{said.device} reported twice as number {said.counter}", why="and not the same")
    if said.counter == last.counter + 1 and said.previous != last.digest:
        why = f"it does not name number {last.counter} as the one before"
        raise ForkedReport(f"report {said.counter} of {said.device} is of another line", why=why)
    return True


class Need(Frozen):
    """Chunks that a device misses and does not get as retained messages, so that the controller shall send them.

    Either ``digests`` names documents and chunk indexes, or ``missing`` names chunks of the file with the chunk index
    ``index`` by their numbers, in a few hundred bytes at most.
    """

    digests: tuple[Sha256, ...] = Field(default=(), max_length=MAX_NEED)
    index: Sha256 | None = None
    missing: str = Field(default="", max_length=-(-_MAX_BITMAP_BYTES // 3) * 4, pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    """Base64 of a bitmap: bit ``n % 8`` (1, 2, 4, ...) of byte ``n // 8`` stands for chunk ``n``."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Need":
        if bool(self.digests) == bool(self.index):
            raise ValueError("it names digests, or chunks of one index")
        if bool(self.index) != bool(self.numbers):
            raise ValueError("an index and numbers belong together")
        return self

    @classmethod
    def of(cls, index: str, numbers: Iterable[int]) -> "Need":
        """Return the request for chunks of one file; there must be at least one."""
        bits = sum(1 << number for number in set(numbers))
        bitmap = bits.to_bytes(-(-bits.bit_length() // 8), "little")
        return cls(index=index, missing=base64.b64encode(bitmap).decode())

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the chunks of ``index`` that are missing, ascending; numbers that no index has may be among them.

        Raises:
            ValueError: It is not base64.
        """
        bitmap = base64.b64decode(self.missing, validate=True)
        return tuple(8 * place + bit for place, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1)

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))


class TrustPack(Frozen):
    """Everything that a device needs to decide about one model, in one piece, for people and programs that check it.

    ``metadata`` holds ``1.root.json``, ``timestamp.json``, ``snapshot.json``, ...; ``targets`` holds
    ``fleet/director.json`` and ``policy/<model>.json``. Values are base64. A device gets the same documents one by one:
    the timestamp as a retained message, every other one by its digest, as a chunk.
    """

    metadata: dict[str, str] = Field(max_length=300)
    targets: dict[str, str] = Field(max_length=8)

    @classmethod
    def of(cls, metadata: dict[str, bytes], targets: dict[str, bytes]) -> "TrustPack":
        """Build a pack from bytes."""
        return cls(
            metadata={n: base64.b64encode(d).decode() for n, d in metadata.items()},
            targets={n: base64.b64encode(d).decode() for n, d in targets.items()},
        )

    def files(self) -> dict[str, bytes]:
        """Return the metadata files by name."""
        return {n: base64.b64decode(d) for n, d in self.metadata.items()}

    def target_files(self) -> dict[str, bytes]:
        """Return the small targets by path."""
        return {n: base64.b64decode(d) for n, d in self.targets.items()}

    @property
    def head(self) -> bytes:
        """The timestamp, which leads to everything else."""
        return self.files()["timestamp.json"]

    def documents(self) -> dict[str, bytes]:
        """Return everything but the head, by digest."""
        files = [data for name, data in self.files().items() if name != "timestamp.json"]
        return {sha256_hex(data): data for data in (*files, *self.target_files().values())}

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))


def decode(cls: type[M], data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> M:
    """Parse one unsigned message.

    Raises:
        InvalidInput: It is too long or not valid; the text names the first problem.
    """
    if len(data) > max_bytes:
        raise InvalidInput(f"a {cls.__name__} message is too long", why=f"{len(data)} bytes")
    try:
        return cls.model_validate(strictjson.loads(data))
    except strictjson.JsonRefused as error:
        raise InvalidInput(f"a {cls.__name__} message is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise InvalidInput(f"a {cls.__name__} message is not valid", why=first_problem(error)) from error
