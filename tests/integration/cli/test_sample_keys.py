"""The data team's key: made, and used to open what devices sealed; no controller is asked."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dsops.sample_sealing import key_id, private_key, public_key, seal

pytestmark = pytest.mark.integration

Offline = Callable[..., Any]
DIGEST = "ab" * 32
TIME_US = 1_767_225_600_123_456


@pytest.fixture
def made(offline: Offline, tmp_path: Path) -> tuple[Path, str]:
    file = tmp_path / "team.pem"
    answer = offline("sample", "keygen", file, "-o", "json")
    assert answer.code == 0
    return file, answer.result["seal_to"]


def exported(path: Path, public: str) -> Path:
    """Write what `dsops sample export samples.parquet` writes: a sealed sample, and one that is not."""
    to = public_key(public)
    ciphertext = seal(b"\x01\x02\x03", to, DIGEST, TIME_US, "UINT8", [1, 3])
    columns = (
        "sample text, sha256 text, digest text, time timestamptz, sealed_for text, label text, datatype text, "
        "shape bigint[], input blob, sealed blob"
    )
    with duckdb.connect(":memory:") as duck:
        duck.execute("set TimeZone = 'UTC'")
        duck.execute(f"create table data ({columns})")
        row = "insert into data values (?, ?, ?, make_timestamptz(?), ?, ?, ?, ?, ?, ?)"
        nothing = hashlib.sha256(b"").hexdigest()
        duck.execute(
            row, ["cam-1/0f/1", nothing, DIGEST, TIME_US, key_id(to).hex(), "7", "UINT8", [1, 3], b"", ciphertext]
        )
        duck.execute(row, ["cam-1/0f/2", "cc", DIGEST, TIME_US, "", None, "UINT8", [1, 3], b"\x04\x05\x06", None])
        duck.execute(f"copy data to '{path}' (format parquet)")
    return path


def test_a_key_is_for_its_owner_only_and_never_replaced(offline: Offline, made: tuple[Path, str]) -> None:
    file, public = made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert public_key(public).public_bytes_raw() == private_key(file.read_bytes()).public_key().public_bytes_raw()
    refused = offline("sample", "keygen", file, "-o", "json")
    assert refused.error["code"] == "request.conflict"


def test_the_key_opens_what_was_sealed_and_leaves_the_rest(
    offline: Offline, made: tuple[Path, str], tmp_path: Path
) -> None:
    file, public = made
    to = tmp_path / "open.parquet"
    done = offline("sample", "unseal", exported(tmp_path / "in.parquet", public), to, "--key", file, "-o", "json")
    assert (done.code, done.result["opened"]) == (0, 1)
    query = f"select sample, label, input, sha256, sealed, sealed_for from '{to}' order by sample"
    rows = duckdb.sql(query).fetchall()
    assert rows == [
        ("cam-1/0f/1", "7", b"\x01\x02\x03", hashlib.sha256(b"\x01\x02\x03").hexdigest(), None, ""),
        ("cam-1/0f/2", None, b"\x04\x05\x06", "cc", None, ""),
    ]


def test_another_key_is_told_so(offline: Offline, made: tuple[Path, str], tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    offline("sample", "keygen", other)
    source, to = exported(tmp_path / "in.parquet", made[1]), tmp_path / "open.parquet"
    refused = offline("sample", "unseal", source, to, "--key", other, "-o", "json")
    assert (refused.code, refused.error["code"]) == (1, "request.sample_sealed")
    assert "cam-1/0f/1" in refused.error["message"]
    assert not to.exists()


def test_what_is_no_export_and_no_key_is_told(offline: Offline, made: tuple[Path, str], tmp_path: Path) -> None:
    bad, to = tmp_path / "bad.parquet", tmp_path / "open.parquet"
    bad.write_bytes(b"PAR1 no")
    absent, other = tmp_path / "absent.parquet", tmp_path / "other.parquet"
    duckdb.sql(f"copy (select 1 as one) to '{other}' (format parquet)")
    for source in (bad, absent, other):
        refused = offline("sample", "unseal", source, to, "--key", made[0], "-o", "json")
        assert (refused.code, refused.error["code"]) == (2, "request.invalid_input"), refused
    refused = offline("sample", "unseal", exported(tmp_path / "in.parquet", made[1]), to, "--key", bad, "-o", "json")
    assert refused.error["code"] == "request.invalid_input"
    assert "no private key" in refused.error["message"]
