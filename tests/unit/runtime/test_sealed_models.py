"""Sealed bundles in the processes that load models: proved and served with their key, and never without."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from runtime_bundles import frames, make_bundle, tflite
from runtime_watches import Witness
from sealed_compass import SealedBundle, sealed

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.clock import SystemClock
from dsops.errors import BundleError, ContentSealed, GoldenMismatch, InvalidInput, InvalidModel, MalformedBundle
from dsops.sealing import ContentKey
from dsops_agent.install.ports import ProveLimits
from dsops_agent.proof import Prover
from dsops_agent.runtime.brake import Brake
from dsops_agent.runtime.duel import Terms
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import DEVICE_LIMITS, load_bundle
from dsops_agent.runtime.handlers import ControlRequests
from dsops_agent.runtime.swap import Models
from dsops_agent.runtime.throttle import ThrottleLimits

LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=2 << 30)


def activation(bundle: SealedBundle) -> dict[str, object]:
    return {"model": "compass", "path": str(bundle.path), "digest": bundle.digest, "release": 1}


def test_a_sealed_bundle_is_proved_and_answers_as_the_clear_one(tmp_path: Path) -> None:
    clear = make_bundle(tmp_path)
    bundle = sealed(clear, record_bytes=4096)
    Prover(1).prove(bundle.path, LIMITS, bundle.key)
    models = Models(1, lambda _: Witness())
    served = models.activate("compass", bundle.path, bundle.digest, 1, bundle.key).model
    expected = load_bundle(Bundle.open(clear.path), clear.digest, 1).infer({"image": frames(8)})
    assert np.array_equal(served.infer({"image": frames(8)}).scores, expected.scores)
    assert tflite() not in bundle.path.read_bytes()


@pytest.mark.parametrize("key", [None, ContentKey(bytes(32))], ids=["none", "wrong"])
def test_without_its_key_it_is_neither_proved_nor_served(tmp_path: Path, key: ContentKey | None) -> None:
    bundle = sealed(make_bundle(tmp_path))
    with pytest.raises(ContentSealed):
        Prover(1).prove(bundle.path, LIMITS, key)
    models = Models(1, lambda _: Witness())
    with pytest.raises(ContentSealed):
        models.activate("compass", bundle.path, bundle.digest, 1, key)
    assert models.names() == []


def test_a_sealed_payload_is_looked_through_before_it_is_parsed(tmp_path: Path) -> None:
    bundle = sealed(make_bundle(tmp_path, payload=tflite() + bytes(DEVICE_LIMITS.trailing_bytes + 1)))
    with pytest.raises(InvalidModel, match="not sound"):
        Prover(1).prove(bundle.path, LIMITS, bundle.key)


def test_sealed_golden_inputs_are_asked(tmp_path: Path) -> None:
    bundle = sealed(make_bundle(tmp_path, score_shift=0.08))
    with pytest.raises(GoldenMismatch):
        Prover(1).prove(bundle.path, LIMITS, bundle.key)


def test_a_signed_bundle_that_its_key_does_not_open_is_malformed(tmp_path: Path) -> None:
    bundle = sealed(make_bundle(tmp_path), record_bytes=4096)
    opened = Bundle.open(bundle.path)
    blobs = {blob.name: opened.read(blob.name) for blob in opened.manifest.blobs}
    damaged = bytearray(blobs["model.tflite"])
    damaged[100] ^= 1
    blobs["model.tflite"] = bytes(damaged)
    manifest = opened.manifest.model_copy(update={"blobs": describe_blobs(blobs)})
    bundle.path.write_bytes(encode_bundle(manifest, blobs))
    with pytest.raises(MalformedBundle, match="cannot be decrypted"):
        Prover(1).prove(bundle.path, LIMITS, bundle.key)


def test_a_key_for_a_clear_bundle_changes_nothing(tmp_path: Path) -> None:
    clear = make_bundle(tmp_path)
    Prover(1).prove(clear.path, LIMITS, ContentKey(bytes(32)))


def test_the_control_channel_takes_the_key_as_its_body(tmp_path: Path) -> None:
    bundle = sealed(make_bundle(tmp_path))
    models = Models(1, lambda _: Witness())
    requests = ControlRequests(
        models, lambda: None, Duels(Terms(lambda *_: None, 1.0, 1.0, SystemClock(), Brake(ThrottleLimits())))
    )
    with pytest.raises(ContentSealed):
        requests.handle("activate", activation(bundle), b"")
    with pytest.raises(InvalidInput, match="32 bytes"):
        requests.handle("activate", activation(bundle), b"short")
    assert requests.handle("activate", activation(bundle), bundle.key.data) == ({}, b"")
    assert models.names() == ["compass"]


def test_nobody_sees_the_key_in_arguments_or_environment(tmp_path: Path) -> None:
    bundle = sealed(make_bundle(tmp_path))
    problems: list[BundleError] = []

    def prove() -> None:
        try:
            Prover(1).prove(bundle.path, LIMITS, bundle.key)
        except BundleError as error:
            problems.append(error)

    thread = threading.Thread(target=prove)
    thread.start()
    seen: set[str] = set()
    while thread.is_alive():
        for child in psutil.Process().children():
            try:
                seen.add(f"{child.cmdline()} {child.environ()}")
            except psutil.Error:
                continue
    thread.join()
    assert not problems
    assert any("dsops_agent.runtime.prove" in text for text in seen)
    for form in (bundle.key.data.hex(), repr(bundle.key.data), bundle.key.data.decode("latin-1")):
        assert not [text for text in seen if form in text]


DUMPABLE = """
import ctypes, resource, sys
from pathlib import Path
from dsops.bundle import Bundle
from dsops.sealing import ContentKey
from dsops_agent.runtime.engine import load_bundle
is_dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
before = is_dumpable()
key = ContentKey(bytes.fromhex(sys.argv[3])) if len(sys.argv) > 3 else None
load_bundle(Bundle.open(Path(sys.argv[1])), sys.argv[2], 1, key)
print(before, is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def test_a_process_that_holds_a_sealed_model_leaves_no_core_dump(tmp_path: Path) -> None:
    clear = make_bundle(tmp_path)
    bundle = sealed(clear)

    def ask(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", DUMPABLE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert ask(str(clear.path), clear.digest)[:2] == ["1", "1"]
    assert ask(str(bundle.path), bundle.digest, bundle.key.data.hex()) == ["1", "0", "0"]
