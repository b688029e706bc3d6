"""Reads ``.npz`` files that nobody vouches for: no pickles, and no array larger than the file can hold.

The format is NumPy's (NEP 1): a ZIP archive of ``.npy`` members, each with a header that announces dtype and shape.
"""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from dsops.errors import InvalidInput

MAX_BYTES = 2 << 30
"""Limit of one array, unpacked, and of all arrays that are read from a file."""
_MAX_DEFLATE_RATIO = 1032
"""DEFLATE cannot pack better than this (zlib's technical details)."""
_SUFFIX = ".npy"
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError, NotImplementedError, RuntimeError)
"""What the ZIP and the array readers raise on a damaged, encrypted or foreign file."""


class NpzArchive:
    """An open file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self.names = tuple(name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX))

    def read(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read arrays.

        Raises:
            InvalidInput: One is missing, or larger than allowed or than the file can hold, or is not a plain array.
        """
        arrays: dict[str, NDArray[Any]] = {}
        left = MAX_BYTES
        for name in names:
            if name not in self.names:
                found = ", ".join(self.names[:8]) or "none"
                raise InvalidInput(f"{self._path.name} has no array {name!r}", why=f"its arrays are: {found}")
            arrays[name] = self._read_one(name, left)
            left -= arrays[name].nbytes
        return arrays

    def _read_one(self, name: str, left: int) -> NDArray[Any]:
        member = self._archive.getinfo(name + _SUFFIX)
        what = f"array {name!r} in {self._path.name}"
        with self._archive.open(member) as stream:
            self._check_size(_announced_bytes(stream, what), member, what, left)
        with self._archive.open(member) as stream:
            values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        return values

    def _check_size(self, announced: int, member: zipfile.ZipInfo, what: str, left: int) -> None:
        possible = min(member.file_size, member.compress_size * _MAX_DEFLATE_RATIO)
        if announced > possible:
            raise InvalidInput(
                f"{what} is damaged", why=f"its header announces {announced} bytes and the file holds {possible}"
            )
        if announced > left:
            raise InvalidInput(f"{what} is too large", why=f"a data file may hold {MAX_BYTES >> 20} MiB of arrays")


def _announced_bytes(stream: IO[bytes], what: str) -> int:
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise InvalidInput(f"{what} is {dtype}", why="plain numbers or texts are needed; objects are never loaded")
    return math.prod(int(size) for size in shape) * dtype.itemsize


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
