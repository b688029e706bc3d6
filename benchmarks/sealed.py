"""What it costs a device, and the controller, that a payload is encrypted.

A dense network whose weights take 20 MB is put into a clear and a sealed bundle; processes of their own, in turns, read
the payload, every byte checked, and load it. The peer is the clear bundle: the same work but for the decryption. Then
the content key is wrapped and unwrapped, and a directive is signed with it and without.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from measure.report import Limit, Report, Row, run
from onnx import TensorProto, helper, numpy_helper

from dsops.bundle import describe_blobs, encode_bundle, sha256_hex
from dsops.directive import DesiredSlot, Directive
from dsops.errors import InvalidModel
from dsops.manifest import Manifest, TensorSpec
from dsops.sealing import ContentKey, Identity, content_key, new_secret, seal, unwrap, wrap
from dsops_controller.build.conversion.convert import read_model

INPUTS, OUTPUTS = 2500, 2000
"""20 MB of float32 weights."""
ROUNDS = 7
WRAPS = 500
CLEAR = "the same, clear"
MOST_MEMORY = Limit("ratio", "<=", 1.15)
DIRECTIVE_LIMIT = Limit("figure", "<=", 1536.0)


def network(folder: Path) -> bytes:
    """Return a dense network of random weights as TFLite."""
    weights = np.random.default_rng(1).normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUTPUTS])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return read_model(path)


def write(path: Path, payload: bytes, secret: bytes | None) -> tuple[Manifest, str]:
    """Write a bundle around a payload; the other parts are not looked at."""
    blobs = {"model.tflite": payload, "profile.json": b"{}", "golden.bin": b"-"}
    told: dict[str, object] = {}
    if secret is not None:
        sealed, ciphertexts = seal(secret, Identity("dense", 1, "int8"), {"model.tflite": payload})
        blobs |= ciphertexts
        told = {"format": 2, "sealed": sealed}
    x, y = (TensorSpec(name=name, datatype="FP32", shape=(1, size)) for name, size in (("x", INPUTS), ("y", OUTPUTS)))
    fields = {"model": "dense", "release": 1, "inputs": (x,), "outputs": (y,), "blobs": describe_blobs(blobs)}
    manifest = Manifest.model_validate(fields | told)
    data = encode_bundle(manifest, blobs)
    path.write_bytes(data)
    return manifest, sha256_hex(data)


def load(path: Path, key: bytes) -> dict[str, float]:
    """Load a bundle's payload in a process of its own.

    Raises:
        InvalidModel: It does not load.
    """
    command = [sys.executable, "-m", "measure.loading", str(path)]
    done = subprocess.run(command, input=key, capture_output=True, check=False, cwd=Path(__file__).parent)
    if done.returncode:
        raise InvalidModel("the payload does not load", why=done.stderr.decode()[-300:])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def loading_rows(folder: Path, payload: bytes, sealed: Path, key: ContentKey) -> list[Row]:
    """Measure loads of the clear and the sealed bundle in turns."""
    clear = folder / "clear.bundle"
    write(clear, payload, None)
    ours, peer = [], []
    for number in range(ROUNDS):
        order = ((ours, sealed, key.data), (peer, clear, b""))
        for found, path, given in order if number % 2 == 0 else order[::-1]:
            found.append(load(path, given))

    def middle(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(one[name] for one in runs)

    figures = {name: (middle(ours, name), middle(peer, name)) for name in ours[0]}
    rate = [len(payload) / 1e3 / figure for figure in figures["read_ms"]]
    return [
        Row("read, checked and opened", "ms", *figures["read_ms"], CLEAR),
        Row("the same", "MB/s", *rate, CLEAR),
        Row("read and loaded", "ms", *figures["loaded_ms"], CLEAR),
        Row("memory that reading adds", "MB", *figures["read_mb"], CLEAR),
        Row("memory that reading and loading add", "MB", *figures["loaded_mb"], CLEAR, MOST_MEMORY),
        Row("bundle", "bytes", sealed.stat().st_size, clear.stat().st_size, CLEAR),
    ]


def middle_us(action: Callable[[], object]) -> float:
    """Return the median time of many calls."""
    times = []
    for _ in range(WRAPS):
        began_ns = time.perf_counter_ns()
        action()
        times.append((time.perf_counter_ns() - began_ns) / 1000)
    return statistics.median(times)


def key_rows(key: ContentKey, digest: str) -> list[Row]:
    """Measure the key's way to one device."""
    own = X25519PrivateKey.generate()
    public = own.public_key()
    wrapped = wrap(key, public, digest, "camera-hall-0017")
    now = datetime.now(UTC)
    lengths = []
    for given in (wrapped, None):
        slot = DesiredSlot(
            path="dense/1.int8.bundle", sha256=digest, length_bytes=20_000_000, release=1,
            deployment="de-0123456789ab", content_key=given,
        )  # fmt: skip
        directive = Directive(
            fleet="north", device="camera-hall-0017", seq=17, issued=now, expires=now + timedelta(days=14),
            slots={"dense": slot},
        )  # fmt: skip
        lengths.append(len(directive.sign(Ed25519PrivateKey.generate())))
    return [
        Row("wrap a key for one device", "us", middle_us(lambda: wrap(key, public, digest, "camera-hall-0017"))),
        Row("unwrap it there", "us", middle_us(lambda: unwrap(wrapped, own, digest, "camera-hall-0017"))),
        Row("directive", "bytes", lengths[0], lengths[1], CLEAR, DIRECTIVE_LIMIT),
    ]


def measure() -> Report:
    """Make both bundles, and measure."""
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        folder = Path(name)
        payload = network(folder)
        secret = new_secret()
        sealed = folder / "sealed.bundle"
        began_s = time.perf_counter()
        manifest, digest = write(sealed, payload, secret)
        sealing_ms = (time.perf_counter() - began_s) * 1000
        key = content_key(secret, manifest)
        rows = [
            *loading_rows(folder, payload, sealed, key),
            Row("seal and write at the build", "ms", sealing_ms),
            *key_rows(key, digest),
        ]
    facts = {"payload": f"{len(payload) / 1e6:.1f} MB", "rounds": ROUNDS, "cores": os.cpu_count()}
    return Report("sealed", "Sealed payloads, medians", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
