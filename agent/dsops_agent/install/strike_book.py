"""Keeps strikes in the journal: they outlive the control process, and cost one write a death."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from dsops.errors import DsopsError
from dsops.manifest import Frozen
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Suspect

logger = logging.getLogger(__name__)

STRIKES, ENDS = "strikes", "challengers' ends"
"""What is kept: the strikes of bundles that the champions' process serves, and the ends of challengers' processes."""


class _Struck(Frozen):
    model: str
    digest: str
    times_s: tuple[float, ...]


class _Page(Frozen):
    boot: str
    struck: tuple[_Struck, ...] = ()


@dataclass(frozen=True)
class StrikeBook:
    """Strikes in the journal. Their times are of a clock that begins anew with the host: another start forgets them.

    Attributes:
        journal: Durable state.
        boot: This start of the host; empty when it cannot be told from another, and then nothing is read back.
        setting: Under which name they are kept.
    """

    journal: Journal
    boot: str
    setting: str = STRIKES

    def read(self) -> dict[Suspect, list[float]]:
        """Return the strikes that were written since the host started."""
        text = self.journal.get(self.setting)
        try:
            page = _Page.model_validate_json(text) if text else _Page(boot="")
        except ValidationError:  # of another version of the agent
            return {}
        if not self.boot or page.boot != self.boot:
            return {}
        return {Suspect(one.model, one.digest): list(one.times_s) for one in page.struck}

    def write(self, times: Mapping[Suspect, list[float]]) -> None:
        """Keep strikes; where the disk takes nothing, they count as long as this process lives."""
        struck = tuple(
            _Struck(model=suspect.model, digest=suspect.digest, times_s=tuple(found))
            for suspect, found in times.items()
        )
        try:
            self.journal.set(self.setting, _Page(boot=self.boot, struck=struck).model_dump_json())
        except DsopsError as error:
            logger.warning("strikes are not kept: %s", error)
