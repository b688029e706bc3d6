"""A key on a PKCS #11 token (SoftHSM 2, package softhsm2 of Debian): it signs events and bundles, and stays there."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import SystemClock
from dsops.errors import InvalidInput
from dsops_controller.cli import app
from dsops_controller.trust import drafts, events, signing
from dsops_controller.trust.bundle_roles import approve
from dsops_controller.trust.drafts import Edit, Group
from dsops_controller.trust.holders import encode_public, named, read_public
from dsops_controller.trust.keys import OnlineKeys, OnlinePublic
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.signers import OpenKey, make_file, open_key
from dsops_controller.trust.testing import bundle_maker

LIBRARY = next(iter(Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")), None)
HAS_SOFTHSM = shutil.which("softhsm2-util") is not None and LIBRARY is not None
PIN = "1234"

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install 'dsops[hsm]'")
ec = importlib.import_module("pkcs11.util.ec")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not HAS_SOFTHSM, reason="SoftHSM is not installed: apt install softhsm2"),
]


@dataclass(frozen=True)
class Token:
    """A token with one P-256 key, made on it."""

    label: str

    @property
    def uri(self) -> str:
        return f"hsm:2?label={self.label}"

    def open(self, pin: str = PIN) -> OpenKey:
        return open_key(self.uri, lambda _name: pin)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A token of SoftHSM in a folder of its own; the library is loaded once a process, so it is one a module."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    before = {name: os.environ.get(name) for name in ("SOFTHSM2_CONF", "PYKCS11LIB")}
    os.environ |= {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "PYKCS11LIB": str(LIBRARY)}
    command = ["softhsm2-util", "--init-token", "--free", "--label", "alice", "--pin", PIN, "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    with pkcs11.lib(str(LIBRARY)).get_token(token_label="alice").open(user_pin=PIN, rw=True) as session:
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: ec.encode_named_curve_parameters("secp256r1")}, local=True
        )
        curve.generate_keypair(store=True, id=b"\x02", label="alice")
    yield Token("alice")
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def test_a_token_and_a_file_found_a_fleet_together(token: Token, tmp_path: Path) -> None:
    alice = token.open()
    (tmp_path / "alice.pub").write_bytes(encode_public(named(alice.public, "alice")))
    make_file(tmp_path / "bob.pem")
    bob = open_key(f"file:{tmp_path / 'bob.pem'}", lambda _name: "")
    people = Group([read_public(tmp_path / "alice.pub"), named(bob.public, "bob")], 2)
    online, clock = OnlineKeys.create(tmp_path / "server" / "keys"), SystemClock()
    edit = Edit(None, clock.now())
    roles = ("root", "targets", "fleet", "policy")
    drafts.found(edit, "lab", OnlinePublic.read(tmp_path / "server" / "keys"), dict.fromkeys(roles, people))
    events.write(tmp_path / "init", edit.event("init", "Found fleet lab", "lab"), "")
    event = events.read(tmp_path / "init")
    for key in (alice, bob):
        event = signing.sign(event, key, signing.check(event, key))
    repository = Repository(tmp_path / "server" / "trust", online, clock)
    repository.submit(list(event.documents.values()), event.small)  # clients of every root accept it
    grant = Edit(repository.published(), clock.now())
    drafts.grant(grant, "digits", Group([named(alice.public, "alice")], 1))
    event = grant.event("grant", "Owners of digits", "lab")
    for key in (alice, bob):
        event = signing.sign(event, key, signing.check(event, key))
    repository.submit(list(event.documents.values()), event.small)
    bundle = bundle_maker(tmp_path)()
    repository.publish_role(approve(bundle, repository.role("model-digits"), [token.open()], clock.now()))
    assert repository.target("digits/1.int8.bundle") is not None


@pytest.mark.parametrize(
    ("uri", "pin"),
    [("hsm:2?label=alice", "9999"), ("hsm:2?label=nobody", PIN), ("hsm:7?label=alice", PIN), ("hsm:x", PIN)],
)
def test_what_is_wrong_with_a_token_is_said(token: Token, uri: str, pin: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as refused:
        open_key(uri, lambda _name: pin).sign(b"payload")
    assert "PIN" in refused.value.hint
    assert refused.value.why


def test_the_command_line_shows_a_tokens_key(token: Token, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DSOPS_KEY_SECRET", PIN)
    monkeypatch.chdir(tmp_path)
    assert app.run(["trust", "key", "show", token.uri]) == 0
    key = read_public(tmp_path / "alice.pub")
    assert key.keyid == token.open().public.keyid
    assert key.scheme == "ecdsa-sha2-nistp256"
