"""Reads ``.npz`` files that nobody vouches for: no pickles, and no array larger than the file can hold.

The format is NumPy's (NEP 1): a ZIP archive of ``.npy`` members, each with a header that announces dtype and shape.
"""

import contextlib
import io
import math
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dsops.errors import InvalidInput

MAX_BYTES = 2 << 30
"""Limit of one array, unpacked, and of all arrays that are read from a file."""
_MAX_DEFLATE_RATIO = 1032
"""DEFLATE cannot pack better than this (zlib's technical details)."""
_MAX_HEADER_BYTES = 1 << 14
"""NumPy refuses headers of more than 10000 bytes, but only once it has read them."""
_SUFFIX = ".npy"
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError, NotImplementedError, RuntimeError)
"""What the ZIP and the array readers raise on a damaged, encrypted or foreign file."""


@dataclass(frozen=True)
class Announced:
    """What an array's header says of it, before any of its values is read."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """How many bytes its values would take."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzArchive:
    """An open file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self.names = tuple(name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX))

    def announced(self, name: str) -> Announced:
        """Return what an array's header says; nothing else of it is unpacked.

        Raises:
            InvalidInput: There is no such array, it announces more than the file can hold, or it is not a plain array.
        """
        if name not in self.names:
            found = ", ".join(self.names[:8]) or "none"
            raise InvalidInput(f"{self._path.name} has no array {name!r}", why=f"its arrays are: {found}")
        member, what = self._archive.getinfo(name + _SUFFIX), self._what(name)
        with self._archive.open(member) as stream:
            header = _read_header(io.BytesIO(stream.read(_MAX_HEADER_BYTES)), what)
        possible = min(member.file_size, member.compress_size * _MAX_DEFLATE_RATIO)
        if header.size_bytes > possible:
            why = f"its header announces {header.size_bytes} bytes and the file holds {possible}"
            raise InvalidInput(f"{what} is damaged", why=why)
        return header

    def read(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read arrays.

        Raises:
            InvalidInput: One is missing, or larger than allowed or than the file can hold, or is not a plain array.
        """
        arrays: dict[str, NDArray[Any]] = {}
        left = MAX_BYTES
        for name in names:
            left -= self.announced(name).size_bytes
            if left < 0:
                why = f"a data file may hold {MAX_BYTES >> 20} MiB of arrays"
                raise InvalidInput(f"{self._what(name)} is too large", why=why)
            with self._archive.open(name + _SUFFIX) as stream:
                arrays[name] = npy.read_array(stream, allow_pickle=False)
        return arrays

    def _what(self, name: str) -> str:
        return f"array {name!r} in {self._path.name}"


def _read_header(stream: IO[bytes], what: str) -> Announced:
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise InvalidInput(f"{what} is {dtype}", why="plain numbers or texts are needed; objects are never loaded")
    if any(size < 0 for size in shape):
        raise InvalidInput(f"{what} is damaged", why=f"its header announces the shape {list(shape)}")
    return Announced(dtype, tuple(int(size) for size in shape))


@contextlib.contextmanager
def open_npz(path: Path, what: str) -> Iterator[NpzArchive]:
    """Open a file.

    Args:
        path: The file.
        what: What it is for, for the error's text.

    Raises:
        InvalidInput: It cannot be read, or is not an ``.npz`` file of plain arrays.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would keep the build waiting
            raise InvalidInput(f"cannot read {what} {path}", why="it is not a regular file")
        with zipfile.ZipFile(path) as archive:
            yield NpzArchive(archive, path)
    except OSError as error:
        raise InvalidInput(f"cannot read {what} {path}", why=error.strerror or str(error)) from error
    except MemoryError as error:
        raise InvalidInput(f"{what} {path.name} does not fit into memory") from error
    except _DAMAGE as error:
        raise InvalidInput(
            f"{path.name} is not an .npz file of plain arrays",
            why=str(error).split("\n", 1)[0],
            hint="np.savez(path, x=frames, y=truth)",
        ) from error
