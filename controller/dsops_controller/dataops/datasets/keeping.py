"""What keeps the samples of data sets in the lake past their days, and what gives way to an erasure.

A version of a data set pins the version of the table of samples that it was made of, so retention and vacuum leave the
files of its samples alone, until the data set is removed. A pin holds a whole version of the table. So when a sample is
erased, every version that has it loses its pins, whoever needs it: those members of data sets that the newest version
of the table has not any more are appended to it first, and the data sets pin that.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dsops.errors import NotFound
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.erasing import Identity, present, restore
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins


@dataclass(frozen=True, slots=True)
class Kept:
    """A version of a data set whose samples are to stay.

    Attributes:
        name: Of the data set.
        version: Of the data set.
        lake_version: Of the table of samples, which has all its members.
        members: Its samples.
    """

    name: str
    version: int
    lake_version: int
    members: Sequence[Identity]

    @property
    def owner(self) -> str:
        """As whose its pin is listed."""
        return owner(self.name, self.version)


def owner(name: str, version: int) -> str:
    """Return as whose the pin of a data set's version is listed."""
    return f"dataset/{name}/{version}"


class Keeping:
    """Pins what data sets need. Safe for use by several threads and controllers."""

    def __init__(self, lake: Lake, pins: Pins) -> None:
        self._lake = lake
        self._pins = pins

    def hold(self, name: str) -> int:
        """Pin the newest version of the table while a data set is made of it; return it. :meth:`settle` ends it.

        Raises:
            StateDamaged: The lake cannot be read or written.
        """
        return self._pins.pin(LakeTable.SAMPLES, f"dataset/{name}")

    def settle(self, name: str, kept: Iterable[Kept]) -> None:
        """Pin what the kept versions of a data set need and have not pinned, and end what :meth:`hold` began.

        It completes what a crash between the two cut off. Raises as :meth:`hold`.
        """
        owners = {pin.owner for pin in self._pins.listed()}
        for one in kept:
            if one.owner not in owners:
                with suppress(NotFound):  # that version went before anything could pin it
                    self._pins.pin(LakeTable.SAMPLES, one.owner, one.lake_version)
        self._pins.release(f"dataset/{name}")

    def versions(self, name: str, version: int) -> list[int]:
        """Return the versions of the table that a version of a data set has pinned. Raises as :meth:`hold`."""
        wanted = owner(name, version)
        return sorted({pin.version for pin in self._pins.listed() if pin.owner == wanted})

    def remove(self, name: str, version: int) -> None:
        """Give up the pin of a version; once more is no fault. Raises as :meth:`hold`."""
        self._pins.release(owner(name, version))

    def let_go(self, gone: Sequence[Identity], kept: Sequence[Kept]) -> Mapping[str, int]:
        """Unpin every version that has samples that are erased; return by owner which version is pinned then.

        Nothing is released before what replaces it is durable, so once more is no fault and completes what was cut off.

        Raises:
            NoSpace: The disk is full; nothing was unpinned.
            StateDamaged: The lake cannot be read or written.
            Conflict: Another controller tends the lake.
        """
        numbers = self._pins.versions(LakeTable.SAMPLES)
        tainted = {number for number in numbers if present(self._lake, gone, number)}
        pins = [pin for pin in self._pins.listed() if pin.table is LakeTable.SAMPLES]
        clean = {pin.owner: pin.version for pin in pins if pin.version not in tainted}
        moving = [one for one in kept if one.owner not in clean]
        for one in moving:
            whole = restore(self._lake, one.members, sorted(tainted))
            clean[one.owner] = self._pins.pin(LakeTable.SAMPLES, one.owner, whole)
        for number in tainted:
            self._pins.release_version(LakeTable.SAMPLES, number)
        return clean
