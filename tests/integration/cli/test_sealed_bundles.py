"""Sealed bundles on the command line: built, looked at with and without the key, and handed over."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import Bundle
from dsops.sealing import content_key

pytestmark = pytest.mark.integration

Run = Callable[..., Any]


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    return tmp_path / "digits.key"


@pytest.fixture
def sealed(offline: Run, built: Path, keyfile: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sealed.bundle"
    made = offline("bundle", "build", built, "-r", "31", "--to", path, "--variant", "int8", "--seal", keyfile)
    assert made.code == 0, made.err
    return path


@pytest.fixture
def clear(offline: Run, built: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clear.bundle"
    assert offline("bundle", "build", built, "-r", "30", "--to", path, "--variant", "int8").code == 0
    return path


def test_the_key_file_is_made_once_for_its_owner_only(
    offline: Run, sealed: Path, built: Path, keyfile: Path, tmp_path: Path
) -> None:
    assert keyfile.stat().st_mode & 0o777 == 0o600
    secret = keyfile.read_bytes()
    again, next_one = tmp_path / "again", tmp_path / "next"
    for path, release in ((again, "31"), (next_one, "32")):
        words = ("-r", release, "--to", path, "--variant", "int8", "--seal", keyfile)
        assert offline("bundle", "build", built, *words).code == 0
    assert keyfile.read_bytes() == secret
    assert again.read_bytes() == sealed.read_bytes()
    ids = [Bundle.open(path).manifest.sealed.key_id for path in (sealed, next_one)]
    stored = [Bundle.open(path).read("model.tflite") for path in (sealed, next_one)]
    assert ids[0] != ids[1]
    assert not set(zip(*stored, strict=True)) <= {(byte, byte) for byte in range(256)}


def test_nothing_of_the_payload_is_in_a_sealed_file(sealed: Path, clear: Path) -> None:
    before, after = Bundle.open(clear), sealed.read_bytes()
    for name in ("model.tflite", "golden.bin"):
        plain = before.read(name)
        assert [
            at
            for at in range(0, len(plain) - 32, 32)
            if len(set(plain[at : at + 32])) > 8 and plain[at : at + 32] in after
        ] == []
    assert before.read("profile.json") in after


def test_show_says_that_it_is_sealed_and_with_the_key_what_is_inside(
    offline: Run, sealed: Path, clear: Path, keyfile: Path, tmp_path: Path
) -> None:
    text = offline("bundle", "show", sealed)
    assert text.code == 0
    assert "\nSEALED (encrypted" in text.out
    assert "there is no content key" in text.out
    shown = offline("bundle", "show", sealed, "-o", "json").result
    assert "problem" in shown["payload"]
    assert "problem" in shown["golden"]
    assert "problem" not in shown["profile"]
    opened = offline("bundle", "show", sealed, "--content-key", keyfile, "-o", "json").result
    expected = offline("bundle", "show", clear, "-o", "json").result
    assert (opened["payload"], opened["golden"]) == (expected["payload"], expected["golden"])
    (tmp_path / "other").write_text("0" * 64)
    assert offline("bundle", "show", sealed, "--content-key", tmp_path / "other").code == 7
    assert "SEALED" not in offline("bundle", "show", clear).out


def test_verify_checks_the_ciphertext_and_with_the_key_what_is_in_it(
    offline: Run, sealed: Path, clear: Path, keyfile: Path
) -> None:
    found = offline("bundle", "verify", sealed, "-o", "json").result
    assert "not opened" in found["sealed"]
    opened = offline("bundle", "verify", sealed, "--content-key", keyfile, "-o", "json").result
    assert "opened with the content key" in opened["sealed"]
    assert offline("bundle", "verify", clear, "-o", "json").result["sealed"] is None
    data = bytearray(sealed.read_bytes())
    data[-2000] ^= 1
    sealed.write_bytes(data)
    assert offline("bundle", "verify", sealed).code == 7


def test_extract_decrypts_and_refuses_without_the_key(
    offline: Run, sealed: Path, clear: Path, keyfile: Path, tmp_path: Path
) -> None:
    refused = offline("bundle", "extract", sealed, "--to", tmp_path / "x", "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.sealed")
    assert "--content-key" in refused.error["hint"]
    assert not (tmp_path / "x").exists()
    assert offline("bundle", "extract", sealed, "profile.json", "--to", tmp_path / "x").code == 0
    made = offline("bundle", "extract", sealed, "--to", tmp_path / "y", "--content-key", keyfile, "-o", "json")
    assert made.code == 0
    plain = Bundle.open(clear)
    for name in ("model.tflite", "golden.bin"):
        assert (tmp_path / "y" / name).read_bytes() == plain.read(name)
        row = next(row for row in made.result if row["name"] == name)
        assert (row["size_bytes"], row["sha256"]) == (
            plain.manifest.blob(name).size_bytes,
            plain.manifest.blob(name).sha256,
        )


def test_diff_compares_what_is_inside(offline: Run, sealed: Path, clear: Path, keyfile: Path) -> None:
    refused = offline("bundle", "diff", clear, sealed, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.sealed")
    found = offline("bundle", "diff", clear, sealed, "--content-key", keyfile, "-o", "json").result
    assert found["weights"] == []
    assert {change["where"] for change in found["blobs"]} >= {"model.tflite", "golden.bin"}
    assert found["update"]["delta_bytes"] > Bundle.open(sealed).manifest.blob("model.tflite").size_bytes


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "z" * 64, "0" * 64 + "\n\n"])
def test_a_file_that_holds_no_secret_is_refused(offline: Run, built: Path, tmp_path: Path, text: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(text)
    made = offline("bundle", "build", built, "-r", "1", "--to", tmp_path / "x", "--variant", "int8", "--seal", wrong)
    assert made.code == 2
    assert "64 hex digits" in made.err
    assert wrong.read_text() == text
    assert not (tmp_path / "x").exists()


def test_a_key_file_in_no_folder_is_refused(offline: Run, built: Path, tmp_path: Path) -> None:
    words = ("-r", "1", "--to", tmp_path / "x", "--variant", "int8", "--seal", tmp_path / "none/key")
    made = offline("bundle", "build", built, *words)
    assert (made.code, "Traceback" in made.err) == (2, False)


def test_push_hands_over_the_key_of_this_bundle_and_not_the_secret(
    dsops: Run, site: Any, sealed: Path, clear: Path, keyfile: Path, tmp_path: Path
) -> None:
    assert dsops("bundle", "sign", sealed, "--keys", site.keys).code == 0
    refused = dsops("bundle", "push", sealed, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.sealed")
    (tmp_path / "other").write_text("0" * 64)
    assert dsops("bundle", "push", sealed, "--content-key", tmp_path / "other").code == 7
    for _ in range(2):
        pushed = dsops("bundle", "push", sealed, "--content-key", keyfile)
        assert pushed.code == 0, pushed.err
    secret = bytes.fromhex(keyfile.read_text())
    manifest = Bundle.open(sealed).manifest
    database = sqlite3.connect(site.server / "state.db")
    rows = database.execute("SELECT key FROM content_key").fetchall()
    database.close()
    assert rows == [(content_key(secret, manifest).data,)]
    for path in site.server.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()
            assert keyfile.read_text().strip().encode() not in path.read_bytes()
    shown = dsops("bundle", "show", "digits/31")
    assert "SEALED" in shown.out
    assert secret.hex() not in shown.out
