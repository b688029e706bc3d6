"""Ceremonies by the command line: holders on machines of their own, who hand a folder of plain files on."""

import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import SystemClock
from dsops_controller.server.init import init_server
from dsops_controller.trust import client
from dsops_controller.trust.ceremony import open_repository

Offline = Callable[..., Any]
HOLDERS = ("alice", "bob", "carol")


class Desk:
    """A holder's machine: a folder of its own with one key, to which an event is copied and from which it is taken."""

    def __init__(self, folder: Path, name: str, run: Offline) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.name = name
        self.run = run
        made = run("trust", "key", "new", f"file:{self.folder / name}.pem", "--to", self.public, "-o", "json")
        assert made.code == 0, made.err

    @property
    def public(self) -> Path:
        return self.folder / f"{self.name}.pub"

    @property
    def key(self) -> str:
        return f"file:{self.folder / self.name}.pem"

    def sign(self, event: Path, *more: str | Path) -> Any:
        """Copy the event here, sign it, and put it back where it came from."""
        here = self.folder / event.name
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(event, here)
        done = self.run("trust", "sign", here, "--key", self.key, "--yes", "-o", "json", *more)
        if done.code == 0:
            shutil.rmtree(event)
            shutil.copytree(here, event)
        return done


@pytest.fixture
def desks(tmp_path: Path, offline: Offline) -> dict[str, Desk]:
    return {name: Desk(tmp_path, name, offline) for name in (*HOLDERS, "erin", "frank", "dave")}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    init_server(tmp_path / "server", fleet="plant")
    return tmp_path / "server"


@pytest.fixture
def founded(server: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path) -> Path:
    """A server whose fleet was founded by alice and carol; bob was away."""
    event = tmp_path / "init"
    roots = [word for name in HOLDERS for word in ("--root", desks[name].public)]
    assert offline("trust", "init", event, *roots, "--server", server).code == 0
    for name in ("carol", "alice"):
        assert desks[name].sign(event).code == 0
    assert offline("trust", "publish", event, "--server", server).code == 0
    return server


def device_accepts(server: Path, folder: Path) -> None:
    """Let a device with the first root take what is published, for every model."""
    repository = open_repository(server)
    state = repository.state()
    paths = [f"{model}/1" for model in state.models]
    client.accept(folder, state.files(state.roles), state.roots[0], paths, SystemClock().now())


def test_three_holders_found_a_fleet_each_alone(
    server: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    event = tmp_path / "2026-11-27-init"
    roots = [word for name in HOLDERS for word in ("--root", desks[name].public)]
    online = tmp_path / "online.json"
    shutil.copy(server / "keys" / "online.json", online)  # the server may be far away
    made = offline("trust", "init", event, *roots, "--online", online, "--fleet", "plant", "-o", "json")
    assert (made.code, made.result["title"]) == (0, "Found fleet plant")
    assert "- [ ] bob" in (event / "CHECKLIST.md").read_text()
    assert not (event / "base").exists()
    shown = offline("trust", "show", event)
    assert "root is signed by 2 of 3: alice, bob, carol" in shown.out
    refused = offline("trust", "publish", event, "--server", server, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "trust.metadata_unsigned")
    signed = desks["bob"].sign(event)
    assert signed.result["signed"] == ["root", "targets", "fleet", "policy"]
    assert desks["bob"].sign(event).code == 0  # the same key again counts once
    status = offline("trust", "status", event)
    assert "targets 1/2 signatures, missing: alice, carol" in status.out
    assert offline("trust", "publish", event, "--server", server).code == 7
    assert desks["alice"].sign(event).code == 0
    assert offline("trust", "status", event, "-o", "json").result["complete"] is True
    for _ in range(2):  # an interrupted publication is repeated
        published = offline("trust", "publish", event, "--server", server, "-o", "json")
        assert {row["role"]: row["version"] for row in published.result} == {
            "root": 1, "targets": 1, "fleet": 1, "policy": 1,
        }  # fmt: skip
    device_accepts(server, tmp_path / "device")
    private = b"".join(file.read_bytes() for file in event.rglob("*") if file.is_file())
    assert b"PRIVATE" not in private


def test_an_event_that_was_changed_between_holders_is_refused(
    server: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    event = tmp_path / "init"
    roots = [word for name in HOLDERS for word in ("--root", desks[name].public)]
    assert offline("trust", "init", event, *roots, "--server", server).code == 0
    assert desks["alice"].sign(event).code == 0
    path = event / "metadata" / "root.json"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"threshold":2', b'"threshold":1'))
    assert path.read_bytes() != honest
    for words in (("sign", event, "--key", desks["bob"].key, "--yes"), ("show", event), ("status", event)):
        refused = offline("trust", *words, "-o", "json")
        assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted"), words
        assert "the signature of alice is not of this root" in refused.error["message"]
    assert offline("trust", "publish", event, "--server", server).code == 7
    assert not (server / "trust" / "metadata" / "timestamp.json").exists()


def test_a_stranger_and_a_holder_who_signed_nothing_yet(
    founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    event = tmp_path / "renew"
    assert offline("trust", "renew", "fleet", "policy", event, "--server", founded).code == 0
    stranger = desks["dave"].sign(event)
    assert (stranger.code, stranger.error["code"]) == (2, "request.invalid_input")
    assert "waits for alice, bob, carol" in stranger.error["why"]
    refused = desks["bob"].sign(event)  # bob was away when the fleet was founded
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")
    first = founded / "trust" / "metadata" / "1.root.json"
    assert desks["bob"].sign(event, "--known-root", first).code == 0
    assert desks["carol"].sign(event).code == 0
    assert offline("trust", "publish", event, "--server", founded).code == 0


def test_without_a_terminal_nothing_is_signed_unless_it_is_said(
    founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    event = tmp_path / "renew"
    assert offline("trust", "renew", "policy", event, "--server", founded).code == 0
    before = (event / "metadata" / "policy.json").read_bytes()
    program = [sys.executable, "-m", "dsops_controller.cli.app"]
    command = [*program, "trust", "sign", str(event), "--key", desks["carol"].key]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nobody is there to read" in done.stderr
    assert (event / "metadata" / "policy.json").read_bytes() == before
    for answer, code in (("n", 130), ("y", 0)):
        status, shown = at_a_terminal(command, answer)
        assert status == code, shown
        assert "policy: 1 -> 2" in shown
    assert (event / "metadata" / "policy.json").read_bytes() != before


def at_a_terminal(command: list[str], answer: str) -> tuple[int, str]:
    """Run a command at a real terminal, type one line, and return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    shown: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                shown.append(part)
        except OSError:  # the terminal's other side has gone
            return

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(60)
    reader.join(10)
    os.close(ours)
    return code, b"".join(shown).decode()


def test_after_a_theft_the_server_gets_other_keys(
    founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    device_accepts(founded, tmp_path / "device")
    stolen = {file.read_bytes() for file in (founded / "keys").glob("*.pem")}
    event = tmp_path / "theft"
    made = offline("trust", "rotate", "timestamp", "snapshot", "director", event, "--server", founded, "-o", "json")
    assert made.result["roles"] == {"root": 2, "fleet": 2}
    for name in ("alice", "carol"):
        assert desks[name].sign(event).code == 0
    assert offline("trust", "publish", event, "--server", founded).code == 0
    kept = {file.read_bytes() for file in (founded / "keys").glob("*.pem")}
    assert len(kept) == 3
    assert not kept & stolen
    device_accepts(founded, tmp_path / "device")
    device_accepts(founded, tmp_path / "fresh")
    assert offline("trust", "publish", event, "--server", founded).code == 0


def test_a_holder_is_replaced(founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path) -> None:
    event = tmp_path / "rotate"
    change = ("--remove", "bob", "--add", desks["dave"].public)
    assert offline("trust", "rotate", "root", "targets", event, *change, "--server", founded).code == 0
    shown = offline("trust", "show", event)
    for line in ("root: bob leaves", "root: dave joins", "targets: bob leaves"):
        assert line in shown.out
    for name in ("alice", "carol"):
        assert desks[name].sign(event).code == 0
    assert desks["dave"].sign(event, "--known-root", founded / "trust" / "metadata" / "1.root.json").code == 0
    assert offline("trust", "publish", event, "--server", founded).code == 0
    late = tmp_path / "late"
    assert offline("trust", "renew", "root", late, "--server", founded).code == 0
    assert desks["bob"].sign(late).code == 2
    assert desks["dave"].sign(late).code == 0  # dave signed what is published now
    device_accepts(founded, tmp_path / "device")


def test_a_stale_event_is_refused_and_says_what_to_do(
    founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    events = [tmp_path / "first", tmp_path / "second"]
    assert offline("trust", "rotate", "root", events[0], "--threshold", "1", "--server", founded).code == 0
    assert offline("trust", "renew", "root", events[1], "--server", founded).code == 0
    for event in events:
        for name in ("alice", "carol"):
            assert desks[name].sign(event).code == 0
    assert offline("trust", "publish", events[1], "--server", founded).code == 0
    refused = offline("trust", "publish", events[0], "--server", founded, "-o", "json")
    assert (refused.code, refused.error["message"]) == (7, "root 2 does not follow")
    assert "make the event again" in refused.error["hint"]


def test_the_doctor_at_the_command_line(founded: Path, offline: Offline) -> None:
    found = offline("trust", "doctor", "--server", founded, "-o", "json")
    assert (found.code, found.result["due"], found.result["warnings"]) == (0, [], [])
    told = offline("trust", "doctor", "--server", founded)
    assert "alice and bob, alice and carol, bob and carol: replace every key of the fleet" in told.out
    assert {row["role"] for row in found.result["calendar"]} == {
        "root", "targets", "fleet", "policy", "snapshot", "timestamp",
    }  # fmt: skip


def test_wrong_use_of_a_ceremony_is_explained(
    founded: Path, desks: dict[str, Desk], offline: Offline, tmp_path: Path
) -> None:
    alice = desks["alice"].public
    event = tmp_path / "event"
    for words, code in (
        (("trust", "init", event, "--root", alice, "--threshold", "2", "--server", founded), 2),
        (("trust", "init", event, "--root", alice, "--root", alice, "--server", founded), 2),
        (("trust", "init", event, "--root", tmp_path / "none.pub", "--server", founded), 2),
        (("trust", "init", event, "--root", desks["alice"].folder / "alice.pem", "--server", founded), 2),
        (("trust", "init", event, "--root", alice), 2),
        (("trust", "init", event, "--root", alice, "--online", founded / "keys" / "online.json"), 2),
        (("trust", "rotate", "root", event, "--server", founded), 2),
        (("trust", "rotate", "root", event, "--remove", "zoe", "--server", founded), 5),
        (("trust", "rotate", "timestamp", event, "--remove", "alice", "--server", founded), 2),
        (("trust", "renew", "model-none", event, "--server", founded), 5),
        (("trust", "renew", "policy", tmp_path / "no" / "where", "--server", founded), 5),
        (("trust", "show", event), 5),
        (("trust", "sign", event, "--key", "file:x.pem", "--yes"), 5),
        (("policy", "set", "digits", event, "--server", founded), 5),
        (("model", "grant", "digits", event, "--server", founded), 2),
        (("model", "grant", "digits", event, "--owner", alice, "--threshold", "2", "--server", founded), 2),
        (("trust", "key", "new", "hsm:2"), 2),
        (("trust", "key", "new", desks["alice"].key), 6),
        (("trust", "key", "show", "ftp:alice"), 2),
        (("trust", "key", "show", f"file:{tmp_path}/none.pem"), 5),
        (("trust", "doctor", "--server", tmp_path / "none"), 5),
    ):
        refused = offline(*words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), (words, refused.err)
        assert "Traceback" not in refused.err
    assert not event.exists()


def test_a_locked_key_asks_for_its_passphrase(
    offline: Offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSOPS_KEY_SECRET", "correct horse")
    uri, public = f"file:{tmp_path / 'alice.pem'}", tmp_path / "alice.pub"
    made = offline("trust", "key", "new", uri, "--passphrase", "--to", public, "-o", "json")
    assert made.code == 0
    assert b"ENCRYPTED" in (tmp_path / "alice.pem").read_bytes()
    shown = offline("trust", "key", "show", uri, "--to", tmp_path / "again.pub", "-o", "json")
    assert shown.result["key"] == made.result["key"] == shown.result["read_aloud"].replace(" ", "")
    assert (tmp_path / "again.pub").read_bytes() == public.read_bytes()
    monkeypatch.setenv("DSOPS_KEY_SECRET", "wrong")
    refused = offline("trust", "key", "show", uri, "--to", public, "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "request.invalid_input")
    monkeypatch.delenv("DSOPS_KEY_SECRET")
    refused = offline("trust", "key", "show", uri, "--to", public, "-o", "json")
    assert "DSOPS_KEY_SECRET" in refused.error["hint"]


def test_quickstart_says_what_it_lacks(server: Path, offline: Offline, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    done = offline("trust", "quickstart", "--keys", keys, "--server", server, "--model", "digits", "-o", "json")
    assert (done.code, done.result["models"]) == (0, ["digits"])
    assert done.result["lacks"][0].startswith("all 9 keys lie in one folder")
    assert "policy: one key alone signs it" in done.result["lacks"]
    device_accepts(server, tmp_path / "device")
    set_ = ("policy", "set", "digits", "--keys", keys, "--server", server)
    assert offline(*set_, "--release", "2", "--fraction", "0.05", "--canary", "cam-1").code == 0
    assert offline(*set_, "--release", "3", "--fraction", "0.5", "--listed-only").code == 0
    policy = open_repository(server).policy("digits")
    assert {number: ring.fraction for number, ring in policy.rings.items()} == {"2": 0.05, "3": 0.5}
    assert policy.default_ring is None
    assert policy.rings["2"].salt != policy.rings["3"].salt
    assert offline(*set_, "--floor", "3").code == 0
    assert offline(*set_, "--floor", "2").code == 6
    rotate = ("trust", "rotate", "timestamp", "--keys", keys, "--server", server)
    assert offline(*rotate, "-o", "json").result["roles"] == {"root": 2}
    assert offline("trust", "renew", "root", "policy", "--keys", keys, "--server", server).code == 0
    device_accepts(server, tmp_path / "device")
