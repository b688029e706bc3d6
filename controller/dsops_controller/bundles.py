"""The bundles that the controller holds and hands out: files by digest, rows in the database, chunks by digest.

A push is done in three steps, each durable before the next: the file, the row, the published role. Killed in between,
it leaves something that the same push completes; a device is never sent what is not complete.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select

from dsops.bundle import Bundle, bundle_index, file_digest, sha256_hex
from dsops.chunks import ChunkIndex
from dsops.clock import Clock
from dsops.directive import DesiredSlot, target_path
from dsops.errors import Conflict, ContentSealed, DigestMismatch, MalformedBundle, NotFound, UntrustedBundle
from dsops.files import fsync_folder, write_atomically
from dsops.ids import digest as check_digest
from dsops.manifest import Manifest
from dsops.needs import Needs, needs_of
from dsops.operators import operators_of
from dsops.sealing import ContentKey
from dsops.trust import model_role
from dsops_controller import audit
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import bundle as bundles
from dsops_controller.db.tables import content_key as content_keys
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.trust.bundle_roles import bundle_facts, read_facts
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.roles import check_target, read_role

_log = logging.getLogger(__name__)

_INCOMING = ".incoming"
_INDEX, _NEEDS = -1, -2
"""Numbers of what is no chunk of a bundle's file."""


@dataclass(frozen=True)
class BundleRecord:
    """One pushed bundle; ``path`` is its name in the trust metadata."""

    sha256: str
    model: str
    release: int
    variant: str
    path: str
    length_bytes: int
    index_sha256: str
    manifest: Manifest
    pushed: datetime

    def slot(self, deployment: str) -> DesiredSlot:
        """Return what a directive says to deploy it."""
        return DesiredSlot(
            path=self.path,
            sha256=self.sha256,
            length_bytes=self.length_bytes,
            release=self.release,
            deployment=deployment,
        )


@dataclass(frozen=True)
class _Place:
    """Where a chunk is; ``number`` is below 0 for the index itself and for what the bundle needs."""

    sha256: str
    number: int


class Bundles:
    """Takes, lists and serves bundles. Safe for several threads.

    Args:
        db: The state database.
        folder: Where bundle files are, named by their digest.
        repository: Publishes the role that approves a bundle.
        clock: Tells the time.
    """

    def __init__(self, db: Database, folder: Path, repository: Repository, clock: Clock) -> None:
        self._db = db
        self._folder = folder
        self._repository = repository
        self._clock = clock
        self._pushing = threading.Lock()
        self._indexing = threading.Lock()
        self._indexes: dict[str, ChunkIndex] = {}
        self._places: dict[str, _Place] = {}
        self._damaged: set[str] = set()

    def push(
        self, data: bytes, role_metadata: bytes, actor: str = audit.SYSTEM, key: ContentKey | None = None
    ) -> BundleRecord:
        """Take a bundle that its model's owner signed; the same push again completes or confirms it.

        Args:
            data: The bundle's bytes.
            role_metadata: The model's role that names it, as ``dsops bundle sign`` made it.
            actor: Who pushes, for the audit trail.
            key: The content key of a sealed bundle. It is stored as it is: whoever reads the database can open it.

        Raises:
            MalformedBundle: The bytes are not a sound bundle.
            ContentSealed: It is sealed and its key is missing or wrong, or it is not sealed and there is a key.
            DigestMismatch: A blob is not what the manifest names.
            UntrustedBundle: The role is not signed by the owner, or does not name exactly this bundle.
            Conflict: Another bundle has this model, release and variant.
            NoSpace: The disk is full; nothing is left behind.
        """
        with self._pushing:
            self._folder.mkdir(parents=True, exist_ok=True)
            incoming = self._folder / _INCOMING
            for stale in self._folder.glob(f".{_INCOMING}.*.tmp"):  # of a push that was killed
                stale.unlink(missing_ok=True)
            try:
                write_atomically(incoming, data)
                record = self._take(incoming, data, role_metadata, actor, key)
            finally:
                incoming.unlink(missing_ok=True)
        with self._indexing:
            self._damaged.discard(record.sha256)
        return record

    def list(self, model: str | None = None) -> tuple[BundleRecord, ...]:
        """Return every bundle, or those of one model, by model and release, newest first."""
        query = select(bundles).order_by(bundles.c.model, bundles.c.release.desc(), bundles.c.variant)
        if model is not None:
            query = query.where(bundles.c.model == model)
        with self._db.read() as connection:
            return tuple(map(_record, connection.execute(query)))

    def get(self, model: str, release: int, variant: str | None = None) -> BundleRecord:
        """Return one bundle; without a variant, the only one of that release.

        Raises:
            NotFound: There is none.
            Conflict: The release has several variants and none is named.
        """
        found = [b for b in self.list(model) if b.release == release and variant in (None, b.variant)]
        if not found:
            hint = "see: dsops bundle list"
            raise NotFound(f"there is no bundle {model} {release}{f' {variant}' if variant else ''}", hint=hint)
        if len(found) > 1:
            raise Conflict(f"{model} {release} has several variants", why=", ".join(b.variant for b in found))
        return found[0]

    def by_digest(self, sha256: str) -> BundleRecord:
        """Return one bundle by its digest.

        Raises:
            NotFound: There is none.
        """
        with self._db.read() as connection:
            row = connection.execute(select(bundles).where(bundles.c.sha256 == sha256)).one_or_none()
        if row is None:
            raise NotFound(f"there is no bundle {sha256[:80]}")
        return _record(row)

    def open(self, sha256: str) -> Bundle:
        """Open a bundle's file.

        Raises:
            NotFound: There is none.
            MalformedBundle: The file is damaged.
        """
        return Bundle.open(self._file(sha256))

    def index(self, sha256: str) -> ChunkIndex:
        """Return a bundle's chunk index.

        Raises:
            NotFound: There is none.
            DigestMismatch: The file is no longer what was pushed.
        """
        self.by_digest(sha256)
        with self._indexing:
            return self._index(sha256)

    def needs(self, sha256: str) -> Needs:
        """Return what a bundle needs of a device.

        Raises:
            NotFound: There is none.
        """
        record = self.by_digest(sha256)
        return needs_of(record.manifest, record.length_bytes)

    def digests(self, sha256: str) -> tuple[str, ...]:
        """Return what devices fetch of a bundle: needs, index, each chunk once. Errors as of :meth:`index`."""
        index = self.index(sha256)
        return (self.needs(sha256).digest, index.digest, *dict.fromkeys(index.digests))

    def chunks(self, sha256: str) -> Iterator[tuple[str, bytes]]:
        """Yield digest and bytes of everything that a device fetches of a bundle: needs, index, then each chunk.

        Raises:
            NotFound: There is none.
            DigestMismatch: The file is no longer what was pushed.
        """
        needs, index = self.needs(sha256), self.index(sha256)
        yield needs.digest, needs.encode()
        yield index.digest, index.encode()
        for number, digest in enumerate(index.digests):
            yield digest, self._read(_Place(sha256, number), digest)

    def chunk(self, digest: str) -> bytes | None:
        """Return one chunk, chunk index or document of needs of any bundle, or None if no bundle has it.

        Raises:
            DigestMismatch: The file is no longer what was pushed.
        """
        with self._indexing:
            place = self._places.get(digest) or self._search(digest)
        return self._read(place, digest) if place else None

    def _take(
        self, incoming: Path, data: bytes, role_metadata: bytes, actor: str, key: ContentKey | None
    ) -> BundleRecord:
        bundle = Bundle.open(incoming)
        bundle.verify()
        _check_key(bundle.manifest, key)
        _check_operators(bundle)
        record = self._describe(bundle.manifest, data)
        present = self._at(record.path)
        if present and present.sha256 == record.sha256 and self._is_published(record, data):
            return present
        _check_entry(record, data, role_metadata)
        self._repository.check([role_metadata])
        _check_unique(record, present)
        incoming.replace(self._folder / record.sha256)
        fsync_folder(self._folder)
        if present is None:
            self._insert(record, actor, key)
        self._repository.publish_role(role_metadata)
        return present or record

    def _describe(self, manifest: Manifest, data: bytes) -> BundleRecord:
        return BundleRecord(
            sha256=sha256_hex(data),
            model=manifest.model,
            release=manifest.release,
            variant=manifest.variant,
            path=target_path(manifest.model, manifest.release, manifest.variant),
            length_bytes=len(data),
            index_sha256=bundle_facts(manifest, data).index,
            manifest=manifest,
            pushed=from_ms(to_ms(self._clock.now())),
        )

    def _at(self, path: str) -> BundleRecord | None:
        with self._db.read() as connection:
            row = connection.execute(select(bundles).where(bundles.c.path == path)).one_or_none()
        return _record(row) if row is not None else None

    def _is_published(self, record: BundleRecord, data: bytes) -> bool:
        """Return whether a push of these bytes was completed before; a file that was damaged since is put right."""
        target = self._repository.target(record.path)
        if target is None or target.hashes.get("sha256") != record.sha256:
            return False
        path = self._folder / record.sha256
        if not path.exists() or file_digest(path)[0] != record.sha256:
            write_atomically(path, data)
        return True

    def _insert(self, record: BundleRecord, actor: str, key: ContentKey | None) -> None:
        values = {
            name: getattr(record, name)
            for name in ("sha256", "model", "release", "variant", "path", "length_bytes", "index_sha256")
        }
        with self._db.write() as connection:
            _store(connection, {**values, "manifest": record.manifest.encode().decode()}, record.pushed)
            detail = f"sha256 {record.sha256}, {record.length_bytes} bytes"
            if key is not None:
                values = {"bundle_sha256": record.sha256, "key": key.data, "created_ms": to_ms(record.pushed)}
                connection.execute(insert(content_keys).values(values))
            audit.record(connection, record.pushed, actor, "bundle.pushed", record.path, detail)

    def _file(self, sha256: str) -> Path:
        path = self._folder / check_digest(sha256)
        if not path.exists():
            raise NotFound(f"there is no bundle {sha256}", hint="push it again: dsops bundle push")
        return path

    def _index(self, sha256: str) -> ChunkIndex:
        """Return an index, made at first use; the caller holds the lock."""
        if sha256 not in self._indexes:
            data = self._file(sha256).read_bytes()
            if sha256_hex(data) != sha256:
                raise DigestMismatch(
                    f"bundle {sha256} is damaged on the server", hint="push it again: dsops bundle push"
                )
            index = bundle_index(data)
            self._places.setdefault(self.needs(sha256).digest, _Place(sha256, _NEEDS))
            self._places.setdefault(index.digest, _Place(sha256, _INDEX))
            for number, digest in enumerate(index.digests):
                self._places.setdefault(digest, _Place(sha256, number))
            self._indexes[sha256] = index
        return self._indexes[sha256]

    def _search(self, digest: str) -> _Place | None:
        """Look into the bundles that were not looked into yet, newest first; a stranger's digest costs that once."""
        query = select(bundles.c.sha256).order_by(bundles.c.pushed_ms.desc())
        with self._db.read() as connection:
            pushed = connection.execute(query).scalars().all()
        for sha256 in pushed:
            if sha256 in self._indexes or sha256 in self._damaged:
                continue
            try:
                self._index(sha256)
            except (NotFound, DigestMismatch) as error:  # the other bundles are sound
                self._damaged.add(sha256)
                _log.error("bundle %s cannot be served: %s", sha256, error)
            if digest in self._places:
                break
        return self._places.get(digest)

    def _read(self, place: _Place, digest: str) -> bytes:
        index = self._indexes[place.sha256]
        if place.number == _NEEDS:
            return self.needs(place.sha256).encode()
        if place.number == _INDEX:
            return index.encode()
        with self._file(place.sha256).open("rb") as file:
            span = index.spans[place.number]
            file.seek(span.offset)
            data = file.read(span.length)
        if sha256_hex(data) != digest:
            raise DigestMismatch(f"bundle {place.sha256} is damaged on the server", hint="push it again")
        return data


def _check_key(manifest: Manifest, key: ContentKey | None) -> None:
    """Check that a sealed bundle comes with its key: without, no device that is sent it could run it."""
    if manifest.sealed is None and key is None:
        return
    if key is None:
        raise ContentSealed(
            f"{manifest.model} {manifest.release} {manifest.variant} is encrypted",
            why="its content key did not come with it",
            hint="give the file that it was built with: dsops bundle push BUNDLE --content-key KEYFILE",
        )
    key.check(manifest)


def _check_operators(bundle: Bundle) -> None:
    """Check that a device can rely on what the manifest says of the payload; a sealed one is the owners' word."""
    manifest = bundle.manifest
    said = manifest.compatibility.operators
    if not said or manifest.sealed is not None:
        return
    found = operators_of(bundle.read(manifest.payload))
    if found != said:
        name = min(set(found) ^ set(said))
        raise MalformedBundle(
            f"the manifest of {manifest.model} {manifest.release} names other operators than its payload has",
            why=f"{name} is {'missing' if name in found else 'not there'}",
        )


def _check_entry(record: BundleRecord, data: bytes, role_metadata: bytes) -> None:
    """Check that a role names exactly this bundle; who signed the role is checked by the repository."""
    role = read_role(role_metadata)
    if role.name != model_role(record.model):
        raise UntrustedBundle(f"{role.name} cannot approve a bundle of {record.model}")
    target = role.targets.targets.get(record.path)
    if target is None:
        raise UntrustedBundle(f"{role.name} does not name {record.path}", hint="sign it: dsops bundle sign")
    check_target(target, data)
    facts = bundle_facts(record.manifest, data)
    if target.hashes.get("sha256") != record.sha256 or read_facts(target) != facts:
        raise UntrustedBundle(f"what was signed of {record.path} is not what the bundle says")


def _check_unique(record: BundleRecord, present: BundleRecord | None) -> None:
    if present and present.sha256 != record.sha256:
        name = f"{record.model} {record.release} {record.variant}"
        hint = "build it with the next release number"
        raise Conflict(f"there is another bundle {name}", why=f"with digest {present.sha256}", hint=hint)


def _store(connection: Connection, values: dict[str, object], pushed: datetime) -> None:
    connection.execute(insert(bundles).values(**values, pushed_ms=to_ms(pushed)))


def _record(row: AnyRow) -> BundleRecord:
    return BundleRecord(
        sha256=row.sha256,
        model=row.model,
        release=row.release,
        variant=row.variant,
        path=row.path,
        length_bytes=row.length_bytes,
        index_sha256=row.index_sha256,
        manifest=Manifest.decode(row.manifest.encode()),
        pushed=from_ms(row.pushed_ms),
    )
