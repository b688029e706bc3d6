"""The bundle's container: flat, strict, reproducible.

    offset  length  what
    0       8       magic ``DSOPSBND``
    8       4       format version, u32 little-endian, 1
    12      4       manifest length M, u32 little-endian, at most 1 MiB
    16      M       manifest, canonical JSON
    16+M    ...     blobs, concatenated in the manifest's order, no padding

The file ends with the last blob. There are no paths, links, modes or compression, so what archives are attacked with
cannot be said. Equal inputs give equal bytes.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from dsops.errors import DigestMismatch, InvalidInput, MalformedBundle
from dsops.manifest import MAX_MANIFEST_BYTES, Blob, Manifest

MAGIC = b"DSOPSBND"
VERSION = 1
_HEAD = struct.Struct("<8sII")
_PIECE = 1 << 20


def sha256_hex(data: bytes) -> str:
    """Return the lower-case hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def describe_blobs(blobs: Mapping[str, bytes]) -> tuple[Blob, ...]:
    """Return the manifest entries of ``blobs``, sorted by name."""
    return tuple(Blob(name=n, size_bytes=len(blobs[n]), sha256=sha256_hex(blobs[n])) for n in sorted(blobs))


def encode_bundle(manifest: Manifest, blobs: Mapping[str, bytes]) -> bytes:
    """Return a bundle's bytes.

    Raises:
        InvalidInput: ``blobs`` are not those of the manifest.
    """
    if manifest.blobs != describe_blobs(blobs):
        raise InvalidInput("the blobs are not those of the manifest")
    head = manifest.encode()
    return b"".join([_HEAD.pack(MAGIC, VERSION, len(head)), head, *(blobs[b.name] for b in manifest.blobs)])


class Bundle:
    """An opened bundle. Opening checks structure and lengths; every read of a blob checks its digest."""

    def __init__(self, path: Path, manifest: Manifest, blobs_start: int) -> None:
        self.path = path
        self.manifest = manifest
        self._starts: dict[str, int] = {}
        position = blobs_start
        for blob in manifest.blobs:
            self._starts[blob.name] = position
            position += blob.size_bytes

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a bundle file.

        Raises:
            MalformedBundle: It is absent, cut short, too long, or not a bundle.
        """
        try:
            with path.open("rb") as file:
                manifest, start = _read_head(file)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise MalformedBundle(f"cannot read bundle {path.name}", why=str(error.strerror)) from error
        expected = start + sum(blob.size_bytes for blob in manifest.blobs)
        if size != expected:
            raise MalformedBundle(f"{path.name} has {size} bytes", why=f"its manifest says {expected}")
        return cls(path, manifest, start)

    def read(self, name: str) -> bytes:
        """Return one blob, checked.

        Raises:
            MalformedBundle: There is none of that name.
            DigestMismatch: Its bytes are not those that the manifest names.
        """
        blob = self.manifest.blob(name)
        with self.path.open("rb") as file:
            file.seek(self._starts[name])
            data = file.read(blob.size_bytes)
        if sha256_hex(data) != blob.sha256:
            raise DigestMismatch(f"blob {name} of {self.path.name} is not what its manifest names")
        return data

    def verify(self) -> None:
        """Check every blob's digest.

        Raises:
            DigestMismatch: One differs.
        """
        for blob in self.manifest.blobs:
            self.read(blob.name)


def _read_head(file: BinaryIO) -> tuple[Manifest, int]:
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        raise MalformedBundle("the file is too short to be a bundle")
    magic, version, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise MalformedBundle("the file is not a dsops bundle", why="it does not begin with the magic bytes")
    if version != VERSION:
        raise MalformedBundle(f"bundle format {version} is not known", hint="update dsops")
    if length > MAX_MANIFEST_BYTES:
        raise MalformedBundle("the manifest is too long", why=f"{length} bytes, {MAX_MANIFEST_BYTES} allowed")
    data = file.read(length)
    if len(data) != length:
        raise MalformedBundle("the manifest is cut short")
    return Manifest.decode(data), _HEAD.size + length


def file_digest(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 (hex) and its length in bytes."""
    total = 0
    state = hashlib.sha256()
    for piece in _pieces(path):
        state.update(piece)
        total += len(piece)
    return state.hexdigest(), total


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
