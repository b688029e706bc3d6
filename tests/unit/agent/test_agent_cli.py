"""The command line: output, errors in three lines, exit codes."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

import dsops
from dsops.messages import ModelState, Problem
from dsops.states import Install
from dsops_agent.cli import main
from dsops_agent.status import SpoolStatus, StateLock, Status, StatusWriter

CONFIG = 'device = "cam-1"\nstate = "state"\n[trust]\nroot = "1.root.json"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG)
    (tmp_path / "state").mkdir()
    return path


def well(**changes: object) -> Status:
    values: dict[str, object] = {
        "device": "cam-1",
        "version": dsops.__version__,
        "pid": os.getpid(),
        "updated": datetime(2026, 1, 1, tzinfo=UTC),
        "enrolled": True,
        "connected": True,
        "runtime_pid": 77,
        "models": {
            "digits": ModelState(
                active="a" * 64,
                active_release=3,
                install=Install.ROLLED_BACK,
                progress=1.0,
                problem=Problem(code="bundle.golden_mismatch", message="wrong"),
            )
        },
        "spool": {"telemetry": SpoolStatus(produced=5, stored=3, dropped=1, pending=1)},
        **changes,
    }
    return Status.model_validate(values)


def put(config: Path, status: Status) -> None:
    StatusWriter(config.parent / "state/status.json", lambda: status).write()


def test_a_status_that_the_disk_does_not_take_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = StatusWriter(tmp_path / "state" / "status.json", well)
    for _ in range(3):
        writer.write()
    assert len(caplog.records) == 1
    (tmp_path / "state").mkdir()
    writer.write()
    (tmp_path / "state" / "status.json").unlink()
    (tmp_path / "state").rmdir()
    writer.write()
    assert len(caplog.records) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert dsops.__version__ in capsys.readouterr().out


def test_wrong_arguments_end_with_two() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


def test_config_show_as_json_and_as_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", str(config), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"key": "device", "value": "cam-1", "origin": "file", "meaning": "name of this device"} in rows
    assert main(["config", "show", "--config", str(config)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["KEY", "VALUE", "ORIGIN", "MEANING"]
    assert len(table) == len(rows) + 1


def test_an_error_is_three_lines_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error[request.invalid_config]", "why", "do"]


def test_status_before_the_first_start_is_not_found(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", str(config)]) == 5
    assert "has not run yet" in capsys.readouterr().err


def test_a_status_that_is_none_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]", '{"device": 1}'):
        (config.parent / "state/status.json").write_text(text)
        assert main(["status", "--config", str(config)]) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_status_says_what_is_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(config, well(files={"digits": "/state/slots/digits/active/files"}))
    lock = StateLock(config.parent / "state")
    lock.take()
    try:
        assert main(["status", "--config", str(config), "--check"]) == 0
        out = capsys.readouterr().out
        assert "release 3 active; newest install: rolled_back 100%" in out
        assert "bundle.golden_mismatch: wrong" in out
        assert "its files: /state/slots/digits/active/files" in out
        assert "5 produced, 3 stored, 1 dropped, 1 pending" in out
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"enrolled": False, "problems": {"enrolment": "refused by X"}}, "refused by X"),
        ({"connected": False, "problems": {"broker": "no route"}}, "no route"),
        ({"runtime_pid": None}, "inference process"),
        ({"problems": {"runtime": "no TFLite runtime is installed"}}, "no TFLite runtime"),
    ],
)
def test_check_ends_with_three_and_says_why(
    config: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], says: str
) -> None:
    put(config, well(**changes))
    lock = StateLock(config.parent / "state")
    lock.take()
    try:
        assert main(["status", "--config", str(config), "--check"]) == 3
    finally:
        lock.release()
    assert says in capsys.readouterr().err


def test_a_status_of_an_agent_that_is_gone_is_not_believed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(config, well())
    assert main(["status", "--config", str(config), "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["running"], answer["connected"], answer["runtime_pid"]) == (False, False, None)
    assert main(["status", "--config", str(config), "--check"]) == 3


def test_no_enrolment_and_no_identity_is_a_configuration_error(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", str(config)]) == 2
    assert "no identity" in capsys.readouterr().err
