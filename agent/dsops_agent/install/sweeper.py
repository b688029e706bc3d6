"""Removes from the disk, and from the journal, what no install needs any more."""

import logging
from dataclasses import dataclass

from dsops.errors import DsopsError
from dsops.states import Install
from dsops_agent.install.carrier import Carrier
from dsops_agent.install.collection import Held, HeldSlot, garbage
from dsops_agent.install.delivery import names_of
from dsops_agent.install.installs import Installs
from dsops_agent.install.journal import Journal
from dsops_agent.install.slots import Slots

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweeper:
    """Does what :func:`dsops_agent.install.collection.garbage` decides. One thread.

    Attributes:
        carrier: Has the files under way.
        slots: The bundles on disk.
        journal: Durable state.
        installs: The installs.
    """

    carrier: Carrier
    slots: Slots
    journal: Journal
    installs: Installs

    def sweep(self, *, is_short: bool = False) -> None:
        """Remove files of transfers, keys, and when room is short bundles that were never committed or are damaged."""
        try:
            found = garbage(self._held(), self._needed(), is_short=is_short)
            self.carrier.remove(found.staging)
            for slot in found.slots:
                logger.info("slot %s of %s is emptied: room is needed", slot.name, slot.model)
                self.slots.empty(slot.model, slot.name)
            self.journal.forget_keys()
        except DsopsError as error:
            logger.warning("%s", error)

    def _held(self) -> Held:
        models = self.slots.models()
        stored = [(model, file) for model in models for file in self.slots.stored(model)]
        slots = [HeldSlot(model, file.name, file.digest, file.committed) for model, file in stored]
        for model in models:
            if not self._is_staging(model):
                slots += [HeldSlot(model, name, "", committed=False) for name in self.slots.leftovers(model)]
        active = {model: self.slots.active_name(model) for model in models}
        return Held(self.carrier.staged_names(), tuple(slots), active)

    def _is_staging(self, model: str) -> bool:
        """Return whether an install may have moved its file into a slot already, and not said so yet."""
        row = self.installs.get(model)
        return row is not None and row.state is Install.VERIFIED

    def _needed(self) -> frozenset[str]:
        return frozenset[str]().union(*(names_of(row.wanted) for row in self.installs.unfinished()))
