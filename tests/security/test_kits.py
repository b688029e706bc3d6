"""Kits and bundles that come on a stick: a device without a network believes of them what it would believe of a broker.

The device has the real chain of sources, folder source, installer and trust store; there is no network at all.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from device_stage import Made, Stage, make_bundle
from trust_stage import Bench

from dsops import strictjson
from dsops.bundle import bundle_index, sha256_hex
from dsops.chunks import ChunkIndex
from dsops.directive import Challenger
from dsops.kit import KIT_FILE, Kit, KitBundle
from dsops.messages import ChallengerState, Problem
from dsops.modes import Mode
from dsops.states import Install
from dsops_agent.install.journal import InstallRow
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.chain import Chain
from dsops_agent.sources.folder import FolderSource
from dsops_agent.sources.offers import Offers, leave


class NoNetwork:
    """The broker of a device that has no network."""

    name = "broker"
    is_near = False

    def request(self, chunk: Chunk) -> None:
        return

    def cancel(self, digest: str) -> None:
        return

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        return

    def is_cut_off(self, chunk: Chunk) -> bool:
        return True


class Offline:
    """A device without a network, and a stick."""

    def __init__(self, stage: Stage, stick: Path) -> None:
        self.stage, self.stick = stage, stick
        self.chain = Chain(self._deliver, self._lost, lambda _digest: None, stage.around, stage.bench.clock)
        self.folder = FolderSource(self.chain)
        self.chain.use((self.folder,), NoNetwork())
        self.chain.withdrawn("folder")
        self.installer = stage.installer = replace(stage.installer, chunks=self.chain)
        self.installer.recover()
        self.offers = Offers(stage.folder / "offers", self.folder, self.chain, self.installer, stage.bench.clock)
        self.thread = threading.Thread(target=self.folder.run)
        self.thread.start()

    def _lost(self, digest: str, problem: Problem) -> None:
        self.installer.chunk_lost(digest, problem)

    def _deliver(self, digest: str, data: bytes) -> None:
        self.installer.chunk_arrived(digest, data)

    def kit(self, made: Made, directive: bytes, rival: Made | None = None) -> None:
        """Write a kit as `dsops device kit` does."""
        repository = self.stage.bench.repository
        head = repository.head
        files = [directive, head, *repository.documents().values()]
        bundles = []
        for one in filter(None, (made, rival)):
            index: ChunkIndex = bundle_index(one.data)
            files += [one.data, index.encode(), one.needs.encode()]
            facts = {"sha256": one.sha256, "length_bytes": len(one.data), "is_challenger": one is rival}
            bundles.append(KitBundle.model_validate({"model": "digits", "release": one.release, **facts}))
        for data in files:
            (self.stick / sha256_hex(data)).write_bytes(data)
        now = self.stage.bench.clock.now()
        kit = Kit(
            device="cam-1",
            expires=now + timedelta(days=1),
            head=sha256_hex(head),
            directive=sha256_hex(directive),
            bundles=tuple(bundles),
        )
        (self.stick / KIT_FILE).write_bytes(strictjson.dumps(kit.model_dump(mode="json")))

    def sign(self, made: Made) -> None:
        """Let the owners sign a bundle with the index and the needs that a real controller makes."""
        facts = {"model": "digits", "release": made.release, "variant": "int8"}
        facts |= {"index": bundle_index(made.data).digest, "needs": made.needs.digest}
        self.stage.bench.repository.set_target("model-digits", made.path, made.data, facts)
        self.stage.bench.repository.publish()

    def offer(self, path: Path) -> None:
        leave(self.stage.folder, path)

    def until(self, condition: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < ends_s, f"waited in vain: {self.installer.observed()}, {self.offers.status()}"
            self.offers.look()
            self.installer.work(0.01)
            self.stage.bench.clock.advance(0.5)

    def is_installed(self, made: Made) -> bool:
        state = self.installer.observed().get("digits")
        return state is not None and (state.active, state.install) == (made.sha256, Install.COMMITTED)

    def problem(self) -> str:
        status = self.offers.status()
        return status.problem.code if status and status.problem else ""

    def close(self) -> None:
        self.folder.stop()
        self.thread.join(10)


@pytest.fixture
def offline(stage: Stage, tmp_path: Path) -> Iterator[Offline]:
    (tmp_path / "stick").mkdir()
    made = Offline(stage, tmp_path / "stick")
    yield made
    made.close()


def test_a_device_that_never_saw_a_network_installs_from_a_kit(offline: Offline, stage: Stage) -> None:
    made = make_bundle(1)
    offline.sign(made)
    offline.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    offline.offer(offline.stick)
    offline.until(lambda: offline.is_installed(made))
    offline.until(lambda: not (stage.folder / "offers/offer.json").exists())
    assert offline.problem() == ""
    assert not offline.folder.place.folder


class ChallengerKit:
    """A kit with release 1 and its challenger, release 2."""

    def __init__(self, offline: Offline, stage: Stage) -> None:
        self.offline, self.stage = offline, stage
        self.champion, self.rival = make_bundle(1), make_bundle(2)
        for one in (self.champion, self.rival):
            offline.sign(one)
        challenger = Challenger(bundle=self.rival.slot(), mode=Mode.SHADOW, share=0.2)
        directive = stage.directive(1, self.champion.slot(), challengers={"digits": challenger})
        offline.kit(self.champion, directive.sign(stage.key), self.rival)

    def state(self) -> ChallengerState | None:
        observed = self.offline.installer.observed().get("digits")
        return observed.challenger if observed else None

    def has_ended(self) -> bool:
        return not (self.stage.folder / "offers/offer.json").exists()


def test_a_challenger_comes_with_the_kit_and_the_offer_ends_with_its_install(offline: Offline, stage: Stage) -> None:
    kit = ChallengerKit(offline, stage)
    offline.offer(offline.stick)
    offline.until(kit.has_ended)
    state, status = kit.state(), offline.offers.status()
    assert offline.is_installed(kit.champion)
    assert state is not None
    assert (state.active, state.install) == (kit.rival.sha256, Install.COMMITTED)
    assert status is not None
    assert set(status.bundles.values()) == {kit.champion.sha256, kit.rival.sha256}


def test_a_bare_bundle_serves_a_directive_that_wants_it_as_challenger(offline: Offline, stage: Stage) -> None:
    kit, path = ChallengerKit(offline, stage), offline.stick / "2.bundle"
    for digest in (kit.rival.sha256, bundle_index(kit.rival.data).digest):
        (offline.stick / digest).unlink()
    path.write_bytes(kit.rival.data)
    offline.offer(offline.stick)
    offline.until(lambda: offline.is_installed(kit.champion) and kit.state() is not None)
    assert not kit.has_ended()  # it waits for a challenger that is not there
    offline.offer(path)
    offline.until(kit.has_ended)
    state = kit.state()
    assert state is not None
    assert (state.active, state.install) == (kit.rival.sha256, Install.COMMITTED)


def test_a_challenger_with_other_bytes_on_the_stick_is_not_installed(offline: Offline, stage: Stage) -> None:
    kit = ChallengerKit(offline, stage)
    (offline.stick / kit.rival.sha256).write_bytes(bytes(len(kit.rival.data)))
    offline.offer(offline.stick)
    offline.until(lambda: any(code == "source.lies" for _, code, _ in stage.around.events))
    offline.until(lambda: offline.is_installed(kit.champion))
    state = kit.state()
    assert state is not None
    assert state.active is None
    assert not kit.has_ended()


def forged(offline: Offline, stage: Stage, made: Made) -> None:
    offline.kit(made, stage.directive(1, made.slot()).sign(Ed25519PrivateKey.generate()))


def for_another(offline: Offline, stage: Stage, made: Made) -> None:
    offline.kit(made, stage.directive(1, made.slot(), device="cam-2").sign(stage.key))


def expired(offline: Offline, stage: Stage, made: Made) -> None:
    then = stage.bench.clock.now() - timedelta(days=2)
    directive = stage.directive(1, made.slot(), issued=then, expires=then + timedelta(days=1))
    offline.kit(made, directive.sign(stage.key))


def no_envelope(offline: Offline, stage: Stage, made: Made) -> None:
    offline.kit(made, b"{}")


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (forged, "trust.directive_unsigned"),
        (for_another, "trust.wrong_device"),
        (expired, "trust.directive_expired"),
        (no_envelope, "trust.directive_malformed"),
    ],
)
def test_nothing_is_believed_because_it_comes_on_a_stick(
    offline: Offline, stage: Stage, prepare: Callable[[Offline, Stage, Made], None], code: str
) -> None:
    made = make_bundle(1)
    offline.sign(made)
    prepare(offline, stage, made)
    offline.offer(offline.stick)
    offline.until(lambda: bool(offline.problem()))
    assert offline.problem() == code
    assert code in stage.refusals()
    assert not offline.is_installed(made)


def test_a_bundle_that_nobody_signed_is_not_installed(offline: Offline, stage: Stage) -> None:
    signed, other = make_bundle(1), make_bundle(2)
    offline.sign(signed)
    offline.kit(other, stage.directive(1, other.slot()).sign(stage.key))
    offline.offer(offline.stick)
    offline.until(
        lambda: "digits" in offline.installer.observed() and offline.installer.observed()["digits"].install.is_final
    )
    assert offline.installer.observed()["digits"].install is Install.REJECTED
    assert not offline.is_installed(other)


def test_a_bundle_with_other_bytes_on_the_stick_costs_time_and_is_never_installed(
    offline: Offline, stage: Stage, bench: Bench
) -> None:
    made = make_bundle(1)
    offline.sign(made)
    offline.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    file = offline.stick / made.sha256
    file.write_bytes(bytes(len(made.data)))
    offline.offer(offline.stick)
    offline.until(lambda: any(code == "source.lies" for _, code, _ in stage.around.events))
    assert not offline.is_installed(made)
    file.write_bytes(made.data)
    offline.offer(offline.stick)
    offline.until(lambda: offline.is_installed(made))


def test_a_kit_whose_directive_was_changed_is_damaged(offline: Offline, stage: Stage) -> None:
    made = make_bundle(1)
    offline.sign(made)
    offline.kit(made, directive := stage.directive(1, made.slot()).sign(stage.key))
    (offline.stick / sha256_hex(directive)).write_bytes(directive + b" ")
    offline.offer(offline.stick)
    offline.until(lambda: offline.problem() == "source.lies")
    assert not offline.is_installed(made)


def test_a_bare_bundle_serves_a_directive_that_wants_it_and_no_other(offline: Offline, stage: Stage) -> None:
    made, other = make_bundle(1), make_bundle(2)
    for one in (made, other):
        (offline.stick / f"{one.release}.bundle").write_bytes(one.data)
    offline.sign(made)
    offline.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    (offline.stick / made.sha256).unlink()
    (offline.stick / bundle_index(made.data).digest).unlink()
    (offline.stick / made.needs.digest).unlink()
    offline.offer(offline.stick)
    offline.until(lambda: "digits" in offline.installer.observed())
    offline.offer(offline.stick / "2.bundle")
    offline.until(lambda: offline.problem() == "request.conflict")
    status = offline.offers.status()
    assert status is not None
    assert "dsops device kit" in status.hint
    offline.offer(offline.stick / "1.bundle")
    offline.until(lambda: offline.is_installed(made))


def test_an_agent_that_is_started_again_goes_on_with_the_offer(offline: Offline, stage: Stage) -> None:
    made = make_bundle(1)
    offline.sign(made)
    offline.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    offline.offer(offline.stick)
    offline.offers.look()
    offline.close()
    assert not offline.is_installed(made)
    stage.restart()
    again = Offline(stage, offline.stick)
    again.until(lambda: again.is_installed(made))
    again.close()


def test_the_end_of_an_install_before_is_not_the_outcome_of_an_offer(offline: Offline, stage: Stage) -> None:
    made = make_bundle(1)
    offline.sign(made)
    full = Problem(code="device.no_space", message="full")
    stage.installer.journal.put_install(
        InstallRow("digits", Install.REJECTED, 0, made.slot(deployment="de-old"), problem=full)
    )
    offline.close()
    again = Offline(stage, offline.stick)
    assert again.installer.observed()["digits"].target == made.sha256
    again.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    again.offer(again.stick)
    for _ in range(3):  # the installer has not come to it yet
        again.offers.look()
    status = again.offers.status()
    assert status is not None
    assert not status.is_reached
    assert again.folder.place.folder == again.stick
    assert (stage.folder / "offers/offer.json").exists()
    again.until(lambda: again.is_installed(made))
    again.until(lambda: not (stage.folder / "offers/offer.json").exists())
    status = again.offers.status()
    assert status is not None
    assert status.is_reached
    again.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_an_offer_that_cannot_be_removed_ends_nothing(
    offline: Offline, stage: Stage, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_bundle(1)
    offline.sign(made)
    offline.kit(made, stage.directive(1, made.slot()).sign(stage.key))
    offline.offer(offline.stick)
    unlink = Path.unlink

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.name == "offer.json":
            raise OSError(number, os.strerror(number), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fail)
    offline.until(lambda: offline.is_installed(made))
    offline.until(lambda: not offline.folder.place.folder)
    (stage.folder / "offers/offer.json").write_bytes(b"{}")
    offline.offers.look()
    offline.offers.look()
    assert offline.is_installed(made)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"v":1,"id":"x","path":"/"}', b'{"id":"0123456789abcdef","path":"stick"}', b"[" * 5000]
)
def test_an_offer_that_is_none_is_dropped(offline: Offline, stage: Stage, text: bytes) -> None:
    (stage.folder / "offers").mkdir()
    path = stage.folder / "offers/offer.json"
    path.write_bytes(text)
    offline.offers.look()
    assert not path.exists()
    assert offline.offers.status() is None


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("nowhere", "bundle.unreadable"),
        ("pipe", "bundle.unreadable"),
        ("folder", "source.not_found"),
        ("no.bundle", "bundle.malformed"),
    ],
)
def test_what_cannot_be_offered_is_named(offline: Offline, stage: Stage, tmp_path: Path, path: str, code: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "no.bundle").write_bytes(b"nothing")
    offline.offer(tmp_path / path)
    offline.offers.look()
    assert offline.problem() == code
