"""Makes or applies one delta, and tells what that took: ``python -m measure.patching WAY STEP OLD NEW DELTA``.

``WAY`` is ours, bsdiff4 or zstandard; ``STEP`` is make or apply. It prints JSON: seconds, and by how many MB the memory
of the process grew over what it had before, with the libraries loaded and the arguments' files not yet read.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bsdiff4
import zstandard

from dsops.bundle import Bundle, file_digest
from dsops.delta import Ends
from dsops_agent.install.rebuild import Files, Rebuild
from dsops_agent.runtime.memory import peak_bytes
from dsops_controller.deltas.making import make_delta
from dsops_controller.deltas.matching import BundleBytes

PATCH_LEVEL = 19
Step = Callable[[Path, Path, Path], None]


def make_ours(old: Path, new: Path, delta: Path) -> None:
    """Make a delta as the server does."""
    both = [BundleBytes(path.read_bytes(), Bundle.open(path).manifest) for path in (old, new)]
    delta.write_bytes(make_delta(*both))


def apply_ours(old: Path, new: Path, delta: Path) -> None:
    """Apply it as an agent does: in slices, durably, checked; ``new`` is the file that is made."""
    wanted = json.loads(new.with_suffix(".json").read_text())
    ends = Ends(file_digest(old)[0], wanted["sha256"], wanted["length_bytes"])
    rebuild = Rebuild(Files(delta, old, new.with_suffix(".made"), new), ends)
    while not rebuild.go_on():
        pass


def make_bsdiff(old: Path, new: Path, delta: Path) -> None:
    """Make a patch by suffix sorting."""
    delta.write_bytes(bsdiff4.diff(old.read_bytes(), new.read_bytes()))


def apply_bsdiff(old: Path, new: Path, delta: Path) -> None:
    """Apply it."""
    new.write_bytes(bsdiff4.patch(old.read_bytes(), delta.read_bytes()))


def make_zstandard(old: Path, new: Path, delta: Path) -> None:
    """Pack with the older file as what came before, as ``zstd --patch-from`` does."""
    before, data = _prefix(old), new.read_bytes()
    window = min(27, (len(before) + len(data)).bit_length())
    settings = zstandard.ZstdCompressionParameters.from_level(PATCH_LEVEL, window_log=window, enable_ldm=True)
    delta.write_bytes(zstandard.ZstdCompressor(dict_data=before, compression_params=settings).compress(data))


def apply_zstandard(old: Path, new: Path, delta: Path) -> None:
    """Unpack it."""
    unpacker = zstandard.ZstdDecompressor(dict_data=_prefix(old), max_window_size=1 << 28)
    new.write_bytes(unpacker.decompress(delta.read_bytes()))


def _prefix(path: Path) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(path.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)


STEPS: dict[tuple[str, str], Step] = {
    ("ours", "make"): make_ours,
    ("ours", "apply"): apply_ours,
    ("bsdiff4", "make"): make_bsdiff,
    ("bsdiff4", "apply"): apply_bsdiff,
    ("zstandard", "make"): make_zstandard,
    ("zstandard", "apply"): apply_zstandard,
}


def main() -> None:
    """Run the step."""
    way, step, *paths = sys.argv[1:]
    old, new, delta = map(Path, paths)
    before_bytes, began_s = peak_bytes(), time.perf_counter()
    STEPS[way, step](old, new, delta)
    took_s = time.perf_counter() - began_s
    sys.stdout.write(json.dumps({"took_s": took_s, "grew_mb": (peak_bytes() - before_bytes) / 1e6}) + "\n")


if __name__ == "__main__":
    main()
