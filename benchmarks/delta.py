"""How much of a bundle an update costs as a delta, and what it takes to make and to apply it.

A MobileNetV2 is trained, quantized to int8 and packed; then its head is trained on, then all of it; and another network
is trained from other weights. Our delta, bsdiff4's and that of ``zstd --patch-from`` (the command, or its library) lead
from the first to each of the others. Ours counts what a device fetches: the delta and its chunk index, or, where the
delta saves too little, the whole bundle and its index.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure.child import ENVIRONMENT
from measure.patching import PATCH_LEVEL
from measure.peers import timed
from measure.report import Limit, Report, Row, run
from measure.tuned import Release, releases

from dsops.bundle import bundle_index, describe_blobs, encode_bundle, sha256_hex
from dsops.chunks import index_of
from dsops.delta import is_worth
from dsops.errors import DigestMismatch, RuntimeCrashed
from dsops.manifest import Manifest, TensorSpec
from dsops_controller.deltas.making import level_for

SEED = 0
ROUNDS = 3
LARGE_BYTES = 50_000_000
OURS, BSDIFF, ZSTD = "ours", "bsdiff4", f"zstd -{PATCH_LEVEL} --patch-from"
LIMITS = {"head only": 15.0, "fine-tuned": 40.0, "unrelated": 102.0}
"""Per cent of the bundle's bytes that may be fetched."""
LARGE_MAKE_LIMIT = Limit("figure", "<=", 30.0)
LARGE_MEMORY_LIMIT = Limit("figure", "<=", 8.0)


@dataclass(frozen=True)
class Cost:
    """What a step took: median seconds, most memory that it added."""

    took_s: float
    grew_mb: float


@dataclass(frozen=True)
class Patch:
    """A delta of one kind, made and applied."""

    length_bytes: int
    fetched: float
    """Per cent of the bundle's bytes."""
    made: Cost
    applied: Cost


def patch(folder: Path, way: str, old: bytes, new: bytes, rounds: int = ROUNDS) -> Patch:
    """Make a delta and apply it.

    Raises:
        RuntimeCrashed: A step failed.
        DigestMismatch: It makes something else.
    """
    paths = [folder / name for name in ("old.bundle", "new.bundle", "delta")]
    paths[0].write_bytes(old)
    paths[1].write_bytes(new)
    made = cost(folder, way, "make", paths, 1)
    paths[1] = folder / "remade.bundle"
    paths[1].with_suffix(".json").write_text(json.dumps({"sha256": sha256_hex(new), "length_bytes": len(new)}))
    applied = cost(folder, way, "apply", paths, rounds)
    if paths[1].read_bytes() != new:
        raise DigestMismatch(f"{way} made another bundle")
    delta = paths[2].read_bytes()
    fetched = len(delta) + len(index_of(delta).encode()) if way == OURS else len(delta)
    if way == OURS and not is_worth(len(delta), len(new)):
        fetched = len(new) + len(bundle_index(new).encode())
    return Patch(len(delta), 100 * fetched / len(new), made, applied)


def cost(folder: Path, way: str, step: str, paths: list[Path], rounds: int) -> Cost:
    """Run a step in processes of its own and return what it took."""
    command = shutil.which("zstd") if way == ZSTD else None
    runs = [
        by_command(folder, command, step, paths) if command else by_library(way, step, paths) for _ in range(rounds)
    ]
    return Cost(statistics.median(run.took_s for run in runs), max(run.grew_mb for run in runs))


def by_library(way: str, step: str, paths: list[Path]) -> Cost:
    """Run a step in Python."""
    name = "zstandard" if way == ZSTD else way
    command = [sys.executable, "-m", "measure.patching", name, step, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeCrashed(f"{name} could not {step} a delta", why=done.stderr.decode()[-500:])
    return Cost(**json.loads(done.stdout))


def by_command(folder: Path, command: str, step: str, paths: list[Path]) -> Cost:
    """Run a step with the command zstd; all of its memory counts."""
    old, new, delta = paths
    options = ["-q", "-f", "--long=27", f"--patch-from={old}"]
    work = [f"-{PATCH_LEVEL}", str(new), "-o", str(delta)] if step == "make" else ["-d", str(delta), "-o", str(new)]
    found = timed(folder, command, *options, *work)
    return Cost(found.took_s, found.peak_mb)


def rows_of(name: str, patches: dict[str, Patch]) -> list[Row]:
    """Return what was measured of one successor."""
    ours = patches[OURS]
    rows = []
    for peer in (BSDIFF, ZSTD):
        limit = Limit("figure", "<=", LIMITS[name]) if peer == BSDIFF else None
        rows.append(Row(f"{name}: fetched", "% of bundle", ours.fetched, patches[peer].fetched, peer, limit))
    for peer in (BSDIFF, ZSTD):
        other = patches[peer]
        rows.append(Row(f"{name}: make", "s", ours.made.took_s, other.made.took_s, peer))
        rows.append(Row(f"{name}: apply", "ms", 1000 * ours.applied.took_s, 1000 * other.applied.took_s, peer))
        rows.append(Row(f"{name}: apply, memory", "MB", ours.applied.grew_mb, other.applied.grew_mb, peer))
    return rows


def enlarged(old: Release, new: Release) -> tuple[bytes, bytes]:
    """Return two bundles of 50 MB: drawn weights, and what a training made of them, drawn from a real one's changes."""
    rng = np.random.default_rng(SEED)
    a, b = (np.frombuffer(release.payload, np.uint8) for release in (old, new))
    base = np.clip(np.rint(rng.normal(0, 30, LARGE_BYTES)), -127, 127).astype(np.int8).view(np.uint8)
    changed = base + rng.choice(b - a, LARGE_BYTES)
    return wrapped(base.tobytes(), 1), wrapped(changed.tobytes(), 2)


def wrapped(payload: bytes, release: int) -> bytes:
    """Return a bundle around a payload that nobody runs."""
    blobs = {"model.tflite": payload, "profile.json": b"{}", "golden.bin": b"-"}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(model="large", release=release, inputs=(spec,), outputs=(spec,), blobs=describe_blobs(blobs))
    return encode_bundle(manifest, blobs)


def large_rows(folder: Path, old: Release, new: Release) -> list[Row]:
    """Measure a bundle of 50 MB; bsdiff4 would need minutes and 900 MB."""
    found = patch(folder, OURS, *enlarged(old, new))
    return [
        Row("50 MB, fine-tuned: fetched", "% of bundle", found.fetched),
        Row("50 MB, fine-tuned: make", "s", found.made.took_s, limit=LARGE_MAKE_LIMIT),
        Row("50 MB, fine-tuned: apply", "s", found.applied.took_s),
        Row("50 MB, fine-tuned: apply, memory", "MB", found.applied.grew_mb, limit=LARGE_MEMORY_LIMIT),
    ]


def measure() -> Report:
    """Train, pack and measure."""
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        folder = Path(name)
        base, *successors = releases(folder, SEED)
        rows = []
        facts: dict[str, object] = {
            "bundle": f"{len(base.data):,} bytes",
            "zstd level": level_for(len(base.data)),
            "rounds": ROUNDS,
        }
        for new in successors:
            patches = {way: patch(folder, way, base.data, new.data) for way in (OURS, BSDIFF, ZSTD)}
            rows += rows_of(new.name, patches)
            offered = "a delta" if is_worth(patches[OURS].length_bytes, len(new.data)) else "full"
            facts[new.name] = f"{offered} ({new.accuracy:.0%} right)"
        rows += large_rows(folder, base, next(one for one in successors if one.name == "fine-tuned"))
        facts |= {"base": f"{base.accuracy:.0%} right", "patch-from": "command" if shutil.which("zstd") else "library"}
    return Report("delta", "Updates of a MobileNetV2 (int8) as deltas", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
