"""One consistent state of the trust metadata, and the rules by which it changes. Pure: values in, values out.

The server signs two roles itself: the snapshot, which fixes the version and digest of every other role, and the
timestamp, which fixes the snapshot (TUF 1.0.33, section 5.3 to 5.6 is what a client checks).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from dsops.bundle import sha256_hex
from dsops.clock import utc_text
from dsops.errors import StateDamaged, UntrustedBundle
from dsops.head import ISSUED_FIELD, ROOTS_FIELD
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.roles import (
    FLEET,
    POLICY,
    ROOT,
    SNAPSHOT_LIFE,
    TARGETS,
    TIMESTAMP_LIFE,
    SignedRole,
    check_content,
    check_signatures,
    lifetime,
    model_of,
    read_role,
    sign_role,
)

HASH = "sha256"


@dataclass(frozen=True)
class TrustState:
    """Everything that is published at one moment.

    Attributes:
        roots: Every root document, ``1.root.json`` first.
        roles: The newest document of every other role that people sign, by name.
        snapshot: Document of the snapshot role.
        timestamp: Document of the timestamp role.
    """

    roots: tuple[bytes, ...]
    roles: Mapping[str, bytes]
    snapshot: bytes
    timestamp: bytes

    @cached_property
    def root(self) -> Root:
        """The newest root."""
        return read_role(self.roots[-1]).root

    @cached_property
    def signed(self) -> Mapping[str, SignedRole]:
        """Every role in ``roles``, parsed."""
        return {name: read_role(data) for name, data in self.roles.items()}

    @cached_property
    def snapshot_content(self) -> Snapshot:
        """What the snapshot says."""
        return read_snapshot(self.snapshot).signed

    @cached_property
    def timestamp_content(self) -> Timestamp:
        """What the timestamp says."""
        return read_timestamp(self.timestamp).signed

    @property
    def targets(self) -> Targets:
        """The top-level targets role: who signs what."""
        return self.signed[TARGETS].targets

    @property
    def models(self) -> tuple[str, ...]:
        """Models that a role signs, sorted."""
        return tuple(sorted(model for model in map(model_of, self.roles) if model))

    def files(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the files that a client asks for when it needs the roles ``names``, in the order of their writing.

        The timestamp comes last: with it the others begin to count.
        """
        found = {f"{number}.{ROOT}.json": data for number, data in enumerate(self.roots, start=1)}
        found |= {f"{self.signed[name].version}.{name}.json": self.roles[name] for name in names}
        found[f"{self.snapshot_content.version}.snapshot.json"] = self.snapshot
        found["timestamp.json"] = self.timestamp
        return found


def read_snapshot(data: bytes) -> Metadata[Snapshot]:
    """Parse a snapshot of our own.

    Raises:
        StateDamaged: It is not one.
    """
    try:
        return Metadata[Snapshot].from_bytes(data)
    except DeserializationError as error:
        raise StateDamaged("the trust metadata cannot be read", why=f"snapshot: {error}") from error


def read_timestamp(data: bytes) -> Metadata[Timestamp]:
    """Parse a timestamp of our own.

    Raises:
        StateDamaged: It is not one.
    """
    try:
        return Metadata[Timestamp].from_bytes(data)
    except DeserializationError as error:
        raise StateDamaged("the trust metadata cannot be read", why=f"timestamp: {error}") from error


def root_digests(timestamp: Timestamp) -> tuple[str, ...]:
    """Return the digests of the roots that a timestamp of our own commits to; another root was never committed.

    Raises:
        StateDamaged: It commits to none.
    """
    digests = timestamp.unrecognized_fields.get(ROOTS_FIELD)
    if not isinstance(digests, list) or not digests:
        raise StateDamaged("the trust metadata cannot be read", why="the timestamp names no root")
    return tuple(str(digest) for digest in digests)


def read_state(read: Callable[[str], bytes]) -> TrustState:
    """Return the state that ``timestamp.json`` leads to, each file checked against the digest that was signed.

    Signatures are not checked here: the files are our own, or of whoever :func:`check_chain` is asked about.

    Args:
        read: Returns a metadata file by name.

    Raises:
        StateDamaged: A file is not what leads to it says.
        OSError: ``read`` raises it.
    """
    timestamp = read("timestamp.json")
    content = read_timestamp(timestamp).signed
    snapshot = _versioned(read, "snapshot", content.snapshot_meta)
    meta = read_snapshot(snapshot).signed.meta
    roles = {file.removesuffix(".json"): _versioned(read, file.removesuffix(".json"), meta[file]) for file in meta}
    digests = root_digests(content)
    roots = tuple(read(f"{number}.{ROOT}.json") for number in range(1, len(digests) + 1))
    if [sha256_hex(data) for data in roots] != list(digests):
        raise StateDamaged("the trust metadata is damaged", why="a root is not what was published")
    return TrustState(roots, roles, snapshot, timestamp)


def check_step(state: TrustState | None, roles: Sequence[SignedRole], now: datetime) -> None:
    """Check that ``roles`` may be published on top of ``state`` (None: a first state, which needs every basic role).

    Raises:
        UntrustedBundle: Signatures, versions, expiry or content refuse one; the text names it.
    """
    new = {role.name: role for role in roles}
    if len(new) != len(roles):
        raise UntrustedBundle("a role comes twice")
    missing = {ROOT, TARGETS, FLEET, POLICY} - set(new) if state is None else set()
    if missing:
        raise UntrustedBundle("the first trust metadata is not complete", why=f"without {', '.join(sorted(missing))}")
    root = _next_root(state, new.get(ROOT))
    targets = _delegator(state, new.get(TARGETS))
    for role in roles:
        if role.name != ROOT:
            check_signatures(role, root if role.name == TARGETS else targets)
            _check_rises(state, role)
        check_content(role, now)
    _check_nobody_is_left_behind(state, new, root, targets)


def advance(state: TrustState | None, roles: Sequence[SignedRole], online: OnlineKeys, now: datetime) -> TrustState:
    """Return the state after ``roles`` (checked before), with a new snapshot and a new timestamp.

    Raises:
        UntrustedBundle: The root does not name the server's keys.
    """
    old_roots = state.roots if state else ()
    old_roles = state.roles if state else {}
    roots = old_roots + tuple(role.data for role in roles if role.name == ROOT)
    signer = online.signer("snapshot", read_role(roots[-1]).root.roles["snapshot"].keyids)
    merged = {**old_roles, **{role.name: role.data for role in roles if role.name != ROOT}}
    version = state.snapshot_content.version + 1 if state else 1
    meta = {f"{name}.json": MetaFile.from_data(read_role(data).version, data, [HASH]) for name, data in merged.items()}
    snapshot = sign_role(Snapshot(version, expires=now + SNAPSHOT_LIFE, meta=meta), [signer])
    return retimed(TrustState(roots, merged, snapshot, state.timestamp if state else b""), online, now)


def retimed(state: TrustState, online: OnlineKeys, now: datetime) -> TrustState:
    """Return the state with a new timestamp and nothing else new.

    Raises:
        UntrustedBundle: The root does not name the server's keys.
    """
    version = state.timestamp_content.version + 1 if state.timestamp else 1
    meta = MetaFile.from_data(state.snapshot_content.version, state.snapshot, [HASH])
    said = {ROOTS_FIELD: [sha256_hex(data) for data in state.roots], ISSUED_FIELD: utc_text(now)}
    timestamp = sign_role(
        Timestamp(version, expires=now + TIMESTAMP_LIFE, snapshot_meta=meta, unrecognized_fields=said),
        [online.signer("timestamp", state.root.roles["timestamp"].keyids)],
    )
    renewed = TrustState(state.roots, state.roles, state.snapshot, timestamp)
    _check_online_keys(renewed)
    return renewed


def renewal(state: TrustState, online: OnlineKeys, now: datetime) -> TrustState | None:
    """Return the state that must replace ``state`` because half of a life is over, or None."""
    if now >= state.snapshot_content.expires - SNAPSHOT_LIFE / 2:
        return advance(state, (), online, now)
    if now >= state.timestamp_content.expires - TIMESTAMP_LIFE / 2:
        return retimed(state, online, now)
    return None


def expiries(state: TrustState) -> dict[str, datetime]:
    """Return when each role expires, by name; ``root`` stands for the newest root."""
    people = {name: role.signed.expires for name, role in state.signed.items()}
    online = {"snapshot": state.snapshot_content.expires, "timestamp": state.timestamp_content.expires}
    return {ROOT: state.root.expires, **people, **online}


def due(state: TrustState, now: datetime) -> dict[str, datetime]:
    """Return the roles of which less than a quarter of a life is left, so that people should sign them again."""
    ours = {"snapshot", "timestamp"}
    return {
        name: moment
        for name, moment in expiries(state).items()
        if name not in ours and now >= moment - lifetime(name) / 4
    }


def _versioned(read: Callable[[str], bytes], name: str, meta: MetaFile) -> bytes:
    data = read(f"{meta.version}.{name}.json")
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise StateDamaged("the trust metadata is damaged", why=f"{name}: {error}") from error
    return data


def _next_root(state: TrustState | None, role: SignedRole | None) -> Root:
    if role is None:
        assert state is not None
        return state.root
    check_signatures(role, role.root)
    wanted = 1
    if state:
        check_signatures(role, state.root)
        wanted = state.root.version + 1
    if role.version != wanted:
        hint = "make the event again, on top of what is published now"
        raise UntrustedBundle(f"root {role.version} does not follow", why=f"the next is {wanted}", hint=hint)
    return role.root


def _delegator(state: TrustState | None, role: SignedRole | None) -> Targets:
    if role is None:
        assert state is not None
        return state.targets
    return role.targets


def _check_rises(state: TrustState | None, role: SignedRole) -> None:
    present = state.signed.get(role.name) if state else None
    if present and role.version <= present.version:
        raise UntrustedBundle(
            f"{role.name} {role.version} is old",
            why=f"version {present.version} is published",
            hint="sign it again, or make the event again, on top of what is published now",
        )


def _check_nobody_is_left_behind(
    state: TrustState | None, new: Mapping[str, SignedRole], root: Root, targets: Targets
) -> None:
    """Check that roles which stay as they are still have the signatures that the new root or targets wants."""
    if state is None or not {ROOT, TARGETS} & set(new):
        return
    for name, role in state.signed.items():
        if name not in new:
            check_signatures(role, root if name == TARGETS else targets)


def _check_online_keys(state: TrustState) -> None:
    try:
        snapshot, timestamp = read_snapshot(state.snapshot), read_timestamp(state.timestamp)
        state.root.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
        state.root.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    except UnsignedMetadataError as error:
        raise UntrustedBundle("the root does not name this server's keys", why=str(error)) from error
