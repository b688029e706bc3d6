"""Samples that somebody asked to have erased leave the lake; those that a data set needs come back from a version.

A version cannot be changed, so what is erased leaves a pinned one only with all of it: see
:mod:`dsops_controller.dataops.datasets.keeping`.
"""

from collections.abc import Iterable, Iterator

from arro3.core import Table
from deltalake import DeltaTable
from deltalake import write_deltalake as append_rows
from deltalake.exceptions import CommitFailedError

from dsops import ids
from dsops.errors import InvalidInput, StateDamaged
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.commits import NO_HOOKS, OURS, properties
from dsops_controller.dataops.lake.lake import Lake, translated
from dsops_controller.dataops.lake.views import IDENTITY

_STREAM_DIGITS, _AT_ONCE = 32, 1000
_TRIES = 5
Identity = tuple[str, str, int]
"""Device, stream and number of a sample."""


def erase(lake: Lake, samples: Iterable[Identity]) -> None:
    """Delete samples, named by device, stream and number, from their table; once more is no fault.

    The files that held them are written anew without them, and removed with what left the table a day ago.

    Raises:
        NoSpace: The disk is full; what was deleted so far stays deleted.
        StateDamaged: The table cannot be read or written.
        Conflict: Another controller tends the lake.
        InvalidInput: A device or a stream cannot be one.
    """
    predicates = list(_predicates(samples))
    lake.flush()
    with translated(), lake.tending() as renew:
        for predicate in predicates:
            renew()
            _delete(lake, predicate)
        lake.settle()


def present(lake: Lake, samples: Iterable[Identity], version: int | None = None) -> set[Identity]:
    """Return those samples that the newest, or the given, version of their table has; raises as :func:`erase`."""
    found: set[Identity] = set()
    with translated():
        delta = lake.table(LakeTable.SAMPLES, version)
        for predicate in _predicates(samples):
            rows = _read(delta, list(IDENTITY), predicate)
            found.update(zip(*(rows[name].to_pylist() for name in IDENTITY), strict=True))
    return found


def restore(lake: Lake, samples: Iterable[Identity], versions: Iterable[int]) -> int:
    """Append to the newest version of their table, durably, those samples that only older versions have.

    Return a version that has all of them: nothing drops rows before it is known. Raises as :func:`erase`.
    """
    wanted = set(samples)
    with translated(), lake.tending() as renew:
        for version in versions:
            renew()
            for predicate in _predicates(sorted(wanted - present(lake, wanted))):
                _append(lake, _read(lake.table(LakeTable.SAMPLES, version), None, predicate))
        lake.settle()
        renew()  # who lost the right meanwhile does not know what was dropped
        return lake.version(LakeTable.SAMPLES)


def _append(lake: Lake, rows: Table) -> None:
    append_rows(
        lake.table(LakeTable.SAMPLES),
        rows,
        mode="append",
        schema_mode="merge",
        commit_properties=OURS,
        post_commithook_properties=NO_HOOKS,
        writer_properties=properties(LakeTable.SAMPLES),
    )


def _read(delta: DeltaTable, columns: list[str] | None, predicate: str) -> Table:
    try:
        return delta.scan(columns, predicate).read_all()
    except Exception as error:  # of the Arrow stream, of the store, of Parquet: they have no class of their own
        raise StateDamaged("samples of the lake cannot be read", why=" ".join(str(error).split())[:500]) from error


def _delete(lake: Lake, predicate: str) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            lake.table(LakeTable.SAMPLES).delete(
                predicate,
                commit_properties=OURS,
                post_commithook_properties=NO_HOOKS,
                writer_properties=properties(LakeTable.SAMPLES),
            )
        except CommitFailedError:  # somebody appended meanwhile
            if attempt == _TRIES:
                raise
        else:
            return


def _predicates(samples: Iterable[Identity]) -> Iterator[str]:
    """Yield a condition for some samples of each stream; what it is made of is checked, for it is SQL."""
    by_stream: dict[tuple[str, str], list[int]] = {}
    for device, stream, seq in samples:
        by_stream.setdefault((ids.device_id(device), stream), []).append(seq)
    for (device, stream), seqs in by_stream.items():
        if not (len(stream) == _STREAM_DIGITS and stream.isalnum() and stream.isascii()):
            raise InvalidInput(f"{stream[:80]!r} is not a stream", hint="see: dsops sample list")
        for start in range(0, len(seqs), _AT_ONCE):
            some = ", ".join(map(str, seqs[start : start + _AT_ONCE]))
            yield f"device = '{device}' and stream = '{stream}' and seq in ({some})"
