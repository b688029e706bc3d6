"""Keys by URI, and the public halves that holders hand over."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from securesystemslib.signer import CryptoSigner, SSlibKey

from dsops.errors import Conflict, InvalidInput, NotFound, UntrustedBundle
from dsops_controller.trust.holders import (
    HOLDER_FIELD,
    canonical,
    check_ids,
    encode_public,
    fingerprint,
    holder_of,
    named,
    read_public,
    spoken,
)
from dsops_controller.trust.signers import holder_from, make_file, open_key


def no_secret(name: str) -> str:
    raise AssertionError(f"asked for {name}")


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return f"file:{path}"


def test_a_key_file_is_its_owners_alone_and_never_written_over(tmp_path: Path) -> None:
    key = make_file(tmp_path / "alice.pem")
    assert stat.S_IMODE((tmp_path / "alice.pem").stat().st_mode) == 0o600
    assert open_key(f"file:{tmp_path / 'alice.pem'}", no_secret).public.keyid == key.keyid
    with pytest.raises(Conflict, match="never written over"):
        make_file(tmp_path / "alice.pem")


def test_a_locked_key_needs_its_passphrase(tmp_path: Path) -> None:
    key = make_file(tmp_path / "alice.pem", "open sesame")
    uri = f"file:{tmp_path / 'alice.pem'}"
    opened = open_key(uri, lambda name: {"passphrase": "open sesame"}[name])
    assert opened.public.keyid == key.keyid
    opened.public.verify_signature(opened.sign(b"payload"), b"payload")
    with pytest.raises(InvalidInput):
        open_key(uri, lambda _name: "open barley")


def test_p256_signs_as_well_and_other_kinds_do_not(tmp_path: Path) -> None:
    opened = open_key(write_key(tmp_path / "p256.pem", ec.generate_private_key(ec.SECP256R1())), no_secret)
    opened.public.verify_signature(opened.sign(b"payload"), b"payload")
    for other in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(InvalidInput, match="not accepted"):
            open_key(write_key(tmp_path / "other.pem", other), no_secret)


@pytest.mark.parametrize("uri", ["", "alice.pem", "file:", "ftp:x", "awskms:", "tkey:", "gnupg:abc", "FILE:x"])
def test_a_uri_of_no_known_form_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="is not a key's URI"):
        open_key(uri, no_secret)


def test_a_key_that_is_not_there_or_no_key(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_key(f"file:{tmp_path}/none.pem", no_secret)
    with pytest.raises(NotFound):
        open_key(f"file:{tmp_path}", no_secret)
    for content in (b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\n"):
        (tmp_path / "bad.pem").write_bytes(content)
        with pytest.raises(InvalidInput):
            open_key(f"file:{tmp_path / 'bad.pem'}", no_secret)


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from dsops.errors import MissingExtra
from dsops_controller.trust.signers import open_key
try:
    open_key(sys.argv[2], lambda *_: "")
except MissingExtra as missing:
    print(missing.hint)
    raise SystemExit(0)
raise SystemExit(1)
"""


@pytest.mark.parametrize(
    ("uri", "module", "hint"),
    [
        ("awskms:1234", "boto3", "securesystemslib[awskms]"),
        ("gcpkms:projects/p", "google.cloud.kms", "securesystemslib[gcpkms]"),
        ("azurekms:https://v.vault.azure.net/keys/k", "azure.identity", "securesystemslib[azurekms]"),
        ("hv:key", "hvac", "securesystemslib[vault]"),
    ],
)
def test_a_key_services_library_is_named_when_it_is_missing(uri: str, module: str, hint: str) -> None:
    """In a process of its own, in which the library counts as not installed, whatever is."""
    ended = subprocess.run([sys.executable, "-c", WITHOUT, module, uri], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert hint in ended.stdout


def test_a_holder_goes_by_the_file_or_the_label() -> None:
    uris = ("file:keys/alice.pem", "hsm:2?label=Bob+B.", "awskms:arn/carol", "hsm:2")
    assert [holder_from(uri) for uri in uris] == ["alice", "Bob B.", "carol", "2"]


def test_the_public_half_comes_back_with_its_name(tmp_path: Path) -> None:
    for key in (CryptoSigner.generate_ed25519().public_key, CryptoSigner.generate_ecdsa().public_key):
        path = tmp_path / "alice.pub"
        path.write_bytes(encode_public(named(key, "Alice A.")))
        found = read_public(path)
        assert (found.keyid, holder_of(found)) == (key.keyid, "Alice A.")
        assert found.to_dict()[HOLDER_FIELD] == "Alice A."
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
        assert holder_of(read_public(path)) == "alice"  # without a name: that of the file


@pytest.mark.parametrize("name", ["", " alice", "a/b", "a\nb", "x" * 65, "\x1b[2J", "älice"])
def test_a_name_that_could_mislead_is_refused(name: str, tmp_path: Path) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    with pytest.raises(InvalidInput):
        named(key, name)
    assert holder_of(SSlibKey.from_dict(key.keyid, key.to_dict() | {HOLDER_FIELD: name})) == f"key {key.keyid[:8]}"


def test_what_is_no_public_key_is_refused(tmp_path: Path) -> None:
    make_file(tmp_path / "alice.pem")
    with pytest.raises(InvalidInput, match="private key"):
        read_public(tmp_path / "alice.pem")
    with pytest.raises(InvalidInput, match="cannot read"):
        read_public(tmp_path / "none.pub")
    for content in (b"", b"Holder: alice\n", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        (tmp_path / "bad.pub").write_bytes(content)
        with pytest.raises(InvalidInput):
            read_public(tmp_path / "bad.pub")


def test_an_id_follows_from_the_key_however_it_is_written() -> None:
    key = CryptoSigner.generate_ecdsa().public_key
    loose = SSlibKey("0" * 64, key.keytype, key.scheme, {"public": key.keyval["public"].strip() + "\n\n"})
    assert canonical(loose).keyid == key.keyid == fingerprint(key)
    check_ids([key])
    with pytest.raises(UntrustedBundle, match="not its own"):
        check_ids([loose])


def test_digests_are_read_aloud_in_fours() -> None:
    assert spoken("0123456789ab") == "0123 4567 89ab"
