"""The device that the fault harness kills: the real installer, journal, slots and staging over a folder.

Trust, network and inference process are the simulators of the scenario tests. What the device reports goes to a file
that the harness owns, as it would go to the controller: it is *acknowledged*, and must be durable from then on.
"""

import importlib.util
import logging
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fault_acks import Acks
from fault_trust import TrustKit

from dsops import dsse
from dsops.directive import Directive
from dsops.errors import DsopsError
from dsops.states import Install
from dsops.trust import Director
from dsops_agent.install.installer import Installer
from dsops_agent.install.slots import Slots

START = datetime(2026, 5, 1, tzinfo=UTC)
_DIRECTOR_KEY, _CONTENT_KEY, _SECRET = b"d" * 32, b"c" * 32, b"s" * 32
_PLAN = (
    *((1, "1"), (2, "2"), (2, "sealed"), (3, "3"), (3, "9"), (3, "delta"), (4, "3")),
    *((9, name) for name in ("1", "2", "3", "sealed", "delta")),
)
"""Directives by ``seq`` and what they want; the ninth wants it once more, after a disk that failed."""


def _scenario() -> ModuleType:
    """Load the simulators of the scenario tests, whose module is a conftest."""
    name = "scenario_world"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "scenario" / "conftest.py"
        sys.path.append(str(path.parent))  # of a worker that pytest did not start
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


scenario: Any = _scenario()
MODEL: str = scenario.MODEL


@dataclass
class AckedEvents:
    """The event sink; it is outside, so what it took is safe."""

    acks: Acks
    kept: list[tuple[str, str, int, str]] = field(default_factory=list)

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        assert message or kind == "committed"
        assert len(digest) in (0, 64)
        self.kept.append((kind, model, release, code))
        self.acks.put(event=[kind, release, code])


@dataclass
class AckedStates:
    """The listener; what it reads is published."""

    acks: Acks
    device: "Device"

    def changed(self) -> None:
        self.acks.changes += 1
        installer = getattr(self.device, "installer", None)
        if installer is None:
            return
        for model, state in installer.observed().items():
            problem = state.problem.code if state.problem else ""
            facts = {"state": state.install.value, "active": state.active, "problem": problem, "of": state.deployment}
            self.acks.put(model=model, seq=installer.seq(), **facts)


class Logged(logging.Handler):
    """Notes warnings; an exception that is none of ours must not reach the worker's border."""

    def __init__(self, acks: Acks) -> None:
        super().__init__(logging.WARNING)
        self._acks = acks

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, DsopsError):
            self._acks.put(unnamed=repr(error), where=record.getMessage())
        else:
            self._acks.put(warned=record.getMessage()[:200])


@dataclass(frozen=True)
class Kit:
    """Bundles and directives, made once, so that every process sees the same bytes."""

    bundles: Mapping[str, Any]
    envelopes: Mapping[tuple[int, str], bytes]
    trust: TrustKit

    @classmethod
    def make(cls, folder: Path) -> "Kit":
        """Make it, signed with the fixed keys."""
        trust = TrustKit.make()
        bundles = {str(release): scenario.make_bundle(release) for release in (1, 2, 3, 9)}
        bundles["sealed"] = scenario.make_bundle(5, secret=_SECRET)
        bundles["delta"] = scenario.make_bundle(4, tuned_from=2)
        world = Device(folder, cls(bundles, {}, trust), Acks(Path(os.devnull)))
        made = {(seq, name): world.signed(seq, (bundles[name],)) for seq, name in _PLAN}
        made[4, "nothing"] = world.signed(4, ())
        made[4, "pardoned"] = world.signed(4, (bundles["3"],), pardoned=(bundles["3"].sha256,))
        made[9, "pardoned"] = world.signed(9, (bundles["3"],), pardoned=(bundles["3"].sha256,))
        world.journal.close()
        return cls(bundles, made, trust)

    def save(self, path: Path) -> None:
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def load(path: Path) -> "Kit":
        kit = pickle.loads(path.read_bytes())
        assert isinstance(kit, Kit)
        return kit


class Device(scenario.World):
    """The scenario tests' device with fixed keys, whose listener and event sink are outside.

    Args:
        folder: The state folder.
        kit: Bundles and directives.
        acks: Where it reports.
        slots: The slots, or deliberately unsafe ones.
    """

    def __init__(self, folder: Path, kit: Kit, acks: Acks, slots: type[Slots] = Slots) -> None:
        self.kit, self.acks, self.slots_class = kit, acks, slots
        super().__init__(folder)
        self.key = Ed25519PrivateKey.from_private_bytes(_DIRECTOR_KEY)
        self.trust.director_ = Director(fleet="north", keys=(dsse.public_pem(self.key.public_key()),))
        self.content_key = X25519PrivateKey.from_private_bytes(_CONTENT_KEY)
        self.publish(*kit.bundles.values())
        self.delta = self.offer(kit.bundles["2"], kit.bundles["delta"])

    def boot(self) -> Installer:
        vars(self).pop("installer", None)  # the one before has no journal any more: nothing is read of it
        self.events = AckedEvents(self.acks)
        self.listener = AckedStates(self.acks, self)
        installer = super().boot()
        assert isinstance(installer, Installer)
        return installer

    def signed(self, seq: int, bundles: tuple[Any, ...], pardoned: tuple[str, ...] = ()) -> bytes:
        directive = Directive(
            fleet="north",
            device="cam-1",
            seq=seq,
            issued=START,
            expires=START + timedelta(days=9),
            slots={MODEL: self.slot(bundles[-1], f"de-{seq}")} if bundles else {},
            pardoned=pardoned,
        )
        return directive.sign(self.key)

    def wants(self, seq: int, name: str) -> None:
        """Let the broker deliver what it retains: directive and head."""
        self.installer.on_directive(self.kit.envelopes[seq, name])
        self.pack()

    def report(self) -> int:
        """Number a report, as the reporter does; return the number."""
        numbers: list[int] = []

        def compose(number: int, before: str | None) -> bytes:
            numbers.append(number)
            return f"{number} {before}".encode()

        self.journal.next_report(compose)
        self.acks.put(report=numbers[0])
        return numbers[0]

    def end(self) -> Any:
        """Let time pass until what is desired has ended, and report."""
        for _ in range(5):
            state = self.settle()
            _, desired = self.journal.desired().get(MODEL, (0, None))
            if desired is None or self.row().wanted.deployment == desired.deployment:
                break
        else:
            raise AssertionError(f"the desired install was never begun: {state}")
        self.report()
        return state

    def row(self) -> Any:
        return self.journal.installs().get(MODEL)

    def install_state(self) -> Install | None:
        row = self.row()
        return row.state if row else None
