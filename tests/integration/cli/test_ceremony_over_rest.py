"""Ceremonies with a running server that is reached over REST, and bundles that several owners sign."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import SystemClock
from dsops_controller.trust import client
from dsops_controller.trust.ceremony import open_repository

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
MakeBundle = Callable[..., Path]


def sign(dsops: Dsops, event: Path, *keys: Path) -> None:
    for key in keys:
        done = dsops("trust", "sign", event, "--key", f"file:{key}.pem", "--yes")
        assert done.code == 0, done.err


@pytest.fixture
def erin(offline: Dsops, tmp_path: Path) -> Path:
    """A second owner's key, without its ending."""
    made = offline("trust", "key", "new", f"file:{tmp_path / 'erin.pem'}", "--to", tmp_path / "erin.pub")
    assert made.code == 0
    return tmp_path / "erin"


def test_an_event_is_made_and_published_over_rest(dsops: Dsops, site: Any, tmp_path: Path) -> None:
    event = tmp_path / "theft"
    made = dsops("trust", "rotate", "timestamp", "snapshot", "director", event, "-o", "json")
    assert (made.code, made.result["roles"]) == (0, {"root": 2, "fleet": 2})
    assert (event / "base" / "metadata" / "1.root.json").read_bytes() == site.root.read_bytes()
    sign(dsops, event, site.keys / "root-1", site.keys / "fleet")
    refused = dsops("trust", "publish", event, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "trust.metadata_unsigned")
    sign(dsops, event, site.keys / "root-3")
    for _ in range(2):
        published = dsops("trust", "publish", event, "-o", "json")
        assert {row["role"]: row["version"] for row in published.result} == {"root": 2, "fleet": 2}
    state = open_repository(site.server).state()
    now = SystemClock().now()
    client.accept(tmp_path / "device", state.files(state.roles), state.roots[0], ["digits/1"], now)
    assert len(list((site.server / "keys").glob("*.pem"))) == 3
    assert dsops("server", "status").code == 0


def test_the_doctor_asks_the_running_server(dsops: Dsops) -> None:
    found = dsops("trust", "doctor", "-o", "json")
    assert found.code == 0
    assert "policy: one key alone signs it" in found.result["warnings"]
    assert dsops("server", "status", "-o", "json").result["trust_due"] == {}


def test_a_policy_event_over_rest_keeps_other_rings(dsops: Dsops, site: Any, tmp_path: Path) -> None:
    for number, words in enumerate((("--release", "7", "--fraction", "0.1"), ("--release", "8", "--canary", "cam-1"))):
        event = tmp_path / f"policy-{number}"
        assert dsops("policy", "set", "digits", event, *words).code == 0
        done = dsops("policy", "sign", event, "--key", f"file:{site.keys / 'policy.pem'}", "--yes")
        assert done.code == 0, done.err
        assert dsops("trust", "publish", event).code == 0
    rings = open_repository(site.server).policy("digits").rings
    assert (rings["7"].fraction, rings["8"].canary) == (0.1, ("cam-1",))


def test_a_bundle_needs_every_owner_that_the_threshold_asks_for(
    dsops: Dsops, site: Any, make_bundle: MakeBundle, tmp_path: Path, erin: Path
) -> None:
    event = tmp_path / "owners"
    change = ("--add", f"{erin}.pub", "--threshold", "2")
    assert dsops("trust", "rotate", "model-digits", event, *change).code == 0
    sign(dsops, event, site.keys / "targets-1", site.keys / "targets-2", site.keys / "model-digits")
    refused = dsops("trust", "publish", event, "-o", "json")
    assert "model-digits 1/2 signatures, missing: erin" in refused.error["why"]
    done = dsops("trust", "sign", event, "--key", f"file:{erin}.pem", "--yes", "--known-root", site.root)
    assert done.code == 0, done.err
    assert dsops("trust", "publish", event).code == 0

    bundle = make_bundle(1)
    owner = f"file:{site.keys / 'model-digits.pem'}"
    signed = dsops("bundle", "sign", bundle, "--key", owner, "-o", "json")
    assert (signed.code, signed.result["signatures"]) == (0, 1)
    refused = dsops("bundle", "push", bundle, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")
    assert refused.error["why"] == "1 of 2 signatures; missing: erin"
    assert "dsops bundle sign" in refused.error["hint"]
    again = dsops("bundle", "sign", bundle, "--keys", site.keys, "-o", "json")
    assert (again.code, again.result["signatures"]) == (0, 1)  # the same key counts once
    desk = tmp_path / "desk"
    desk.mkdir()
    for file in (bundle, bundle.with_name(f"{bundle.name}.role.json")):
        shutil.copy(file, desk)
    signed = dsops("bundle", "sign", desk / bundle.name, "--key", f"file:{erin}.pem", "-o", "json")
    assert (signed.code, signed.result["signatures"]) == (0, 2), signed.err
    pushed = dsops("bundle", "push", desk / bundle.name, "-o", "json")
    assert (pushed.code, pushed.result["path"]) == (0, "digits/1.int8.bundle")

    other = make_bundle(2)
    assert dsops("bundle", "sign", other, "--key", owner).code == 0
    shutil.copy(f"{other}.role.json", desk / f"{make_bundle(2, 'other').name}.role.json")
    shutil.copy(make_bundle(2, "other"), desk)
    slipped = dsops("bundle", "sign", desk / make_bundle(2, "other").name, "--key", f"file:{erin}.pem", "-o", "json")
    assert (slipped.code, slipped.error["code"]) == (7, "bundle.untrusted")
    assert "what another owner signed is not this bundle" in slipped.error["message"]
    both = dsops("bundle", "sign", other, "--key", owner, "--key", f"file:{erin}.pem", "-o", "json")
    assert (both.code, both.result["signatures"]) == (0, 2)
    assert dsops("bundle", "push", other).code == 0


def test_an_owner_who_did_not_sign_the_newest_role_brings_a_root(
    dsops: Dsops, site: Any, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    made = dsops("trust", "key", "new", f"file:{tmp_path / 'frank.pem'}", "--to", tmp_path / "frank.pub")
    assert made.code == 0
    event = tmp_path / "frank"
    assert (
        dsops("trust", "rotate", "model-digits", event, "--add", tmp_path / "frank.pub", "--threshold", "1").code == 0
    )
    sign(dsops, event, site.keys / "targets-1", site.keys / "targets-2", site.keys / "model-digits")
    assert dsops("trust", "publish", event).code == 0
    bundle = make_bundle(3)
    key = ("--key", f"file:{tmp_path / 'frank.pem'}")
    refused = dsops("bundle", "sign", bundle, *key, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")
    assert "--known-root" in refused.error["hint"]
    assert dsops("bundle", "sign", bundle, *key, "--known-root", site.root).code == 0
    assert dsops("bundle", "push", bundle).code == 0
