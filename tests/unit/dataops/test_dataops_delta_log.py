import json
from pathlib import Path

import pytest

from dsops.errors import StateDamaged
from dsops_controller.dataops.lake.delta_log import NOTE, Tail, load_synced, save_synced, undo_unsynced

OURS = json.dumps({"commitInfo": {"operation": "WRITE", "dsops": "true"}})
FOREIGN = json.dumps({"commitInfo": {"operation": "OPTIMIZE"}})


def table(folder: Path, *commits: str) -> Path:
    log = folder / "t" / "_delta_log"
    log.mkdir(parents=True)
    for version, text in enumerate(commits):
        (log / f"{version:020d}.json").write_text(text)
    return folder / "t"


def versions(path: Path) -> list[int]:
    return sorted(int(file.stem) for file in (path / "_delta_log").glob("*.json"))


def test_our_unsynced_commits_are_taken_back(tmp_path: Path) -> None:
    path = table(tmp_path, OURS, OURS, OURS, OURS)
    assert undo_unsynced(path, Tail(1)) == [3, 2]
    assert versions(path) == [0, 1]


@pytest.mark.parametrize("torn", ["", "\0\0\0", '{"commitInfo": {"dso', "3"])
def test_torn_commits_are_taken_back(tmp_path: Path, torn: str) -> None:
    path = table(tmp_path, OURS, OURS, torn)
    assert undo_unsynced(path, Tail(1)) == [2]


def test_a_commit_of_somebody_else_stays_with_all_below_it(tmp_path: Path) -> None:
    path = table(tmp_path, OURS, OURS, FOREIGN, OURS)
    assert undo_unsynced(path, Tail(0)) == [3]
    assert versions(path) == [0, 1, 2]


def test_synced_commits_are_never_touched(tmp_path: Path) -> None:
    path = table(tmp_path, OURS, "", OURS)
    assert undo_unsynced(path, Tail(2)) == []
    assert versions(path) == [0, 1, 2]


def test_unsynced_checkpoints_go_with_the_hint(tmp_path: Path) -> None:
    path = table(tmp_path, OURS, OURS)
    log = path / "_delta_log"
    for version in (0, 1):
        (log / f"{version:020d}.checkpoint.parquet").write_bytes(b"PAR1")
    (log / "_last_checkpoint").write_text('{"version":1}')
    undo_unsynced(path, Tail(1, checkpoints=(0,)))
    assert [file.name for file in log.glob("*.parquet")] == [f"{0:020d}.checkpoint.parquet"]
    assert not (log / "_last_checkpoint").exists()


def test_an_unsynced_checkpoint_of_an_old_version_goes_too(tmp_path: Path) -> None:
    """One is made for a version that is pinned: torn, it would be taken for what the version is read from."""
    path = table(tmp_path, OURS, OURS, OURS)
    log = path / "_delta_log"
    for version, data in ((0, b""), (1, b"PAR1")):
        (log / f"{version:020d}.checkpoint.parquet").write_bytes(data)
    undo_unsynced(path, Tail(2, checkpoints=(1,)))
    assert [file.name for file in log.glob("*.parquet")] == [f"{1:020d}.checkpoint.parquet"]


def test_a_table_torn_at_its_birth_is_removed_and_one_without_a_note_is_kept(tmp_path: Path) -> None:
    torn = table(tmp_path / "a", "")
    assert undo_unsynced(torn, None) == []
    assert not torn.exists()
    whole = table(tmp_path / "b", OURS, OURS)
    assert undo_unsynced(whole, None) == []
    assert versions(whole) == [0, 1]


def test_the_note_is_read_back_or_refused(tmp_path: Path) -> None:
    assert load_synced(tmp_path) == {}
    save_synced(tmp_path, {"telemetry": Tail(3, (0, 2))})
    assert load_synced(tmp_path) == {"telemetry": Tail(3, (0, 2))}
    for text in ("[]", "{", '{"telemetry": 3}'):
        (tmp_path / NOTE).write_text(text)
        with pytest.raises(StateDamaged):
            load_synced(tmp_path)
