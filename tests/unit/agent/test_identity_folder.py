"""Identities on disk: what is durable before what, what a sweep removes, what a reset leaves; the commands."""

import json
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.clock import SystemClock
from dsops.errors import StateDamaged
from dsops_agent.cli import main
from dsops_agent.identity import Fleet, IdentityFolder, fingerprint

FLEET = Fleet(fleet="f", broker="b:1", store="s:2", topic_prefix="p")


def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cam-1")])
    now = SystemClock().now()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now.replace(year=now.year + 1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def next_one(folder: IdentityFolder) -> None:
    pem = certificate(folder.key())
    folder.request("cam-1")
    folder.complete(pem, pem, FLEET)


def test_everything_of_an_identity_is_durable_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().relative_to(tmp_path)}")
        sync(handle)

    def rename(path: Path, target: Path) -> Path:
        done.append(f"rename {target.relative_to(tmp_path)}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    folder = IdentityFolder(tmp_path / "identity")
    for number in (1, 2):
        done.clear()
        next_one(folder)
        flip = done.index("rename identity/active")
        for name in ("device.key", "device.csr", "device.crt", "ca.crt", "fleet.json"):
            renamed = done.index(f"rename identity/{number}/{name}")
            assert done[renamed - 1] == f"sync identity/{number}/.{name}.{os.getpid()}.tmp"
            assert done[renamed + 1] == f"sync identity/{number}"
            assert renamed + 1 < flip
        assert "sync identity" in done[:flip]  # the new folder's name
        assert done[flip + 1 :] == ["sync identity"]


def test_a_sweep_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "identity"
    folder = IdentityFolder(root)
    folder.sweep()
    next_one(folder)
    folder.key()
    folder.content_key()
    wanted = {path for path in root.rglob("*") if not path.is_symlink()}
    for name in (".content.key.77.tmp", "1/.ca.crt.77.tmp", "4/device.key"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("half")
    (root / ".active.tmp").symlink_to("9")
    folder.sweep()
    assert {path for path in root.rglob("*") if not path.is_symlink()} == wanted
    assert folder.load("cam-1") is not None


@pytest.mark.parametrize("target", ["9", "../elsewhere", "0"])
def test_a_link_that_names_nothing_is_damage_and_not_a_device_without_identity(tmp_path: Path, target: str) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    next_one(folder)
    (tmp_path / "identity/active").unlink()
    (tmp_path / "identity/active").symlink_to(target)
    with pytest.raises(StateDamaged, match="cannot be used"):
        folder.load("cam-1")


def test_an_identity_before_that_is_half_removed_is_not_used(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    next_one(folder)
    next_one(folder)
    assert folder.before("cam-1") is not None
    (tmp_path / "identity/1/device.crt").unlink()
    assert folder.before("cam-1") is None


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text('device = "cam-1"\nstate = "state"\n[trust]\nroot = "1.root.json"\n')
    return path


def test_show_makes_a_key_once_and_gives_the_line_for_a_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["identity", "show", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    key = IdentityFolder(config.parent / "state/identity").key()
    assert shown.count(f"cam-1,{fingerprint(key)}\n") == 2


def test_show_tells_of_the_certificate_and_reset_forgets_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = IdentityFolder(config.parent / "state/identity")
    next_one(folder)
    identity = folder.load("cam-1")
    assert identity is not None
    assert main(["identity", "show", "--config", str(config), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "device": "cam-1",
        "key_sha256": fingerprint(identity.key),
        "serial": "7",
        "expires": identity.expires.isoformat(),
        "ca_sha256": identity.certificate.fingerprint(hashes.SHA256()).hex(),
    }
    assert main(["identity", "reset", "--config", str(config)]) == 0
    assert folder.load("cam-1") is None
    assert not (config.parent / "state/identity").exists()
