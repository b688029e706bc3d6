"""Holds an install back until the device's maintenance rules let it go on; asks the host and a local program."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dsops_agent.install.journal import InstallRow
from dsops_agent.install.maintenance import Conditions, Phase, Rules, obstacle

LOOK_S = 5.0
"""How often the rules are looked at while an install waits, and while one is fetched."""
ASK_S = 0.2
"""How often a program that was asked is looked at."""
ASKING = "veto: the program was asked"
MAX_REASON = 200


class HostConditions(Protocol):
    """Reads the state of the host. Must not block."""

    def conditions(self) -> Conditions:
        """Return the state of now."""
        ...


class Veto(Protocol):
    """A local program that can hold installs back. No method may block."""

    def ask(self, question: tuple[str, ...]) -> str | None:
        """Return the program's objection to what is about to be done, empty when it has none, None until it ended.

        Asked again with the same words it returns the answer of the program that runs, then it runs the program anew.
        """
        ...


@dataclass
class Gate:
    """Says whether an install may go on. One thread.

    Attributes:
        rules: What must hold.
        host: The state of the host; None when no rule asks for it.
        veto: The local program, if there is one.
    """

    rules: Rules = field(default_factory=Rules)
    host: HostConditions | None = None
    veto: Veto | None = None

    @property
    def is_open_always(self) -> bool:
        """Whether there is no rule at all."""
        rules = self.rules
        has_windows = rules.download.windows or rules.activate.windows
        return not has_windows and self.veto is None and not rules.ask_the_host

    def obstacle(self, row: InstallRow, phase: Phase, now: datetime | None, *, at_hand: bool = False) -> str:
        """Return why an install may not go on now, or an empty text; ``now`` is None without a clock to trust.

        ``at_hand`` says that the bundle lies on the device.
        """
        host = self.host.conditions() if self.host else Conditions()
        wrong = obstacle(self.rules, phase, now, host, urgent=row.wanted.urgent, at_hand=at_hand)
        if wrong or self.veto is None:
            return wrong[:MAX_REASON]
        said = self.veto.ask((phase.value, row.model, str(row.wanted.release)))
        if said is None:
            return ASKING
        return f"veto: {said}"[:MAX_REASON] if said else ""
