"""What keeps the samples of data sets in the lake past their days, and what gives way to an erasure.

A version of a data set pins the version of the table of samples that it was made of, so retention and vacuum leave the
files of its samples alone, until the data set is removed. A pin holds a whole version of the table. So when a sample is
erased, every version that has it loses its pins, whoever needs it: those members of data sets that the newest version
of the table has not any more are appended to it first, and the data sets pin that. Pins of controllers with a database
of their own are told apart by the name of their inbox: what their data sets hold is not known here, so they stay, and
an erasure that meets one is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dsops.errors import Conflict, NotFound
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.erasing import Identity, present, restore
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pin, Pins

_NAMED = 10


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
        return self._pins.pin(LakeTable.SAMPLES, self._owner(name))

    def settle(self, name: str, kept: Iterable[Kept]) -> None:
        """Pin what the kept versions of a data set need and have not pinned, and end what :meth:`hold` began.

        It completes what a crash between the two cut off. Raises as :meth:`hold`.
        """
        owners = {pin.owner for pin in self._pins.listed()}
        for one in kept:
            if (owner := self._owner(one.name, one.version)) not in owners:
                with suppress(NotFound):  # that version went before anything could pin it
                    self._pins.pin(LakeTable.SAMPLES, owner, one.lake_version)
        self._pins.release(self._owner(name))

    def versions(self, name: str, version: int) -> list[int]:
        """Return the versions of the table that a version of a data set has pinned. Raises as :meth:`hold`."""
        wanted = self._owner(name, version)
        return sorted({pin.version for pin in self._pins.listed() if pin.owner == wanted})

    def remove(self, name: str, version: int) -> None:
        """Give up the pin of a version; once more is no fault. Raises as :meth:`hold`."""
        self._pins.release(self._owner(name, version))

    def give_up(self, owner: str) -> None:
        """Give up the pins of a controller that does not come back, as they are listed; durable on return.

        Raises:
            NotFound: There is no such pin.
            Conflict: It is of a data set of this controller's database, which has another way to be given up.
            StateDamaged: The lake cannot be read or written.
        """
        which = [pin for pin in self._pins.listed() if pin.owner == owner]
        if not which:
            raise NotFound(f"nothing is pinned by {owner[:200]}", hint="see: dsops store tables")
        if self._is_ours(which[0]):
            name = owner.removeprefix("dataset/").partition("@")[0]
            raise Conflict(f"{owner} is of this controller", hint=f"dsops dataset remove {name}")
        self._pins.release(owner)

    def check_foreign(self, gone: Sequence[Identity]) -> None:
        """Return if only data sets of this controller's database pin versions that have samples.

        Raises:
            Conflict: Others do, too.
            StateDamaged: The lake cannot be read.
        """
        foreign = [pin for pin in self._listed() if not self._is_ours(pin)]
        tainted = self._tainted(gone, foreign)
        _check_left([pin for pin in foreign if pin.version in tainted])

    def let_go(self, gone: Sequence[Identity], kept: Sequence[Kept]) -> Mapping[tuple[str, int], int]:
        """Unpin our versions that have samples that are erased; return by data set which version is pinned then.

        Nothing is released before what replaces it is durable, so once more is no fault and completes what was cut off.

        Raises:
            NoSpace: The disk is full; nothing was unpinned.
            StateDamaged: The lake cannot be read or written.
            Conflict: Another controller tends the lake.
        """
        pins = [pin for pin in self._listed() if self._is_ours(pin)]
        tainted = self._tainted(gone, pins)
        pinned = {pin.owner: pin.version for pin in pins if pin.version not in tainted}
        clean = {}
        for one in kept:
            owner = self._owner(one.name, one.version)
            if owner not in pinned:
                whole = restore(self._lake, one.members, sorted(tainted))
                pinned[owner] = self._pins.pin(LakeTable.SAMPLES, owner, whole)
            clean[one.name, one.version] = pinned[owner]
        for number in tainted:
            self._pins.release_version(LakeTable.SAMPLES, number, {pin.owner for pin in pins})
        return clean

    def _owner(self, name: str, version: int | None = None) -> str:
        """Return as whose the pin of a data set's version is listed, or that of one which is being made."""
        what = name if version is None else f"{name}/{version}"
        return f"dataset/{what}@{self._lake.inbox}"

    def _is_ours(self, pin: Pin) -> bool:
        return pin.owner.endswith(f"@{self._lake.inbox}")

    def _listed(self) -> list[Pin]:
        return [pin for pin in self._pins.listed() if pin.table is LakeTable.SAMPLES]

    def _tainted(self, gone: Sequence[Identity], pins: Iterable[Pin]) -> set[int]:
        """Return the versions among those that are pinned that have samples which are to go."""
        return {number for number in {pin.version for pin in pins} if present(self._lake, gone, number)}


def _check_left(foreign: Sequence[Pin]) -> None:
    if foreign:
        owners = sorted({pin.owner for pin in foreign})
        raise Conflict(
            "data sets of another controller need files that have samples which are to be erased",
            why=f"{len(owners)} of them: {', '.join(owners[:_NAMED])}; nothing was erased",
            hint="with that controller, export what you need and: dsops dataset remove NAME/VERSION; then erase here, "
            "erase there, and make its data sets anew: dsops dataset create. If it does not come back, for each: "
            "dsops store unpin OWNER",
        )
