"""Deliberately unsafe slots, by which the harness is proved: each is a mistake that real installers make."""

from dataclasses import replace
from pathlib import Path

from dsops_agent.install.journal import SlotRow
from dsops_agent.install.slots import SlotFile, Slots


class OverwriteInPlace(Slots):
    """A: one place, and the new bundle is written over the old one."""

    def stage(self, model: str, row: SlotRow, source: Path) -> SlotFile:
        place = self._only_place(model)
        self._bring(source, place / "bundle")
        return self._keep(model, row, place)

    def activate(self, model: str, name: str) -> None:
        _flip(self.folder / model, name)

    def _only_place(self, model: str) -> Path:
        place = self.folder / model / "a"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _bring(self, source: Path, held: Path) -> None:
        if source.exists():
            held.write_bytes(source.read_bytes())

    def _keep(self, model: str, row: SlotRow, place: Path) -> SlotFile:
        self._table.put_slot(model, replace(row, name=place.name))
        return SlotFile(place.name, place / "bundle", row.digest, row.length_bytes, row.release, row.committed)


class RenameWithoutSync(OverwriteInPlace):
    """B: one place, a temporary file and a rename, but no fsync."""

    def _bring(self, source: Path, held: Path) -> None:
        if source.exists():
            fresh = held.with_suffix(".new")
            fresh.write_bytes(source.read_bytes())
            fresh.replace(held)


class FlipWithoutSync(RenameWithoutSync):
    """D: two places and a link that is flipped, but no fsync."""

    def _only_place(self, model: str) -> Path:
        place = self.folder / model / ("b" if self.active_name(model) == "a" else "a")
        place.mkdir(parents=True, exist_ok=True)
        return place


def _flip(place: Path, name: str) -> None:
    fresh = place / ".active.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(place / "active")


SLOTS: dict[str, type[Slots]] = {
    "real": Slots,
    "overwrite in place": OverwriteInPlace,
    "rename without fsync": RenameWithoutSync,
    "flip without fsync": FlipWithoutSync,
}
