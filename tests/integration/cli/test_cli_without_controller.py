"""Commands without a controller: contexts, missing parts of the distribution, signals, pipes, and bad model files."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.integration

Offline = Callable[..., Any]
PROGRAM = [sys.executable, "-m", "dsops_controller.cli.app"]
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from dsops_controller.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


def test_a_controller_that_does_not_run(offline: Offline, other_site: Any) -> None:
    for words in (("device", "list"), ("server", "status"), ("rollout", "list")):
        refused = offline(*words, "--context", other_site.context, "-o", "json")
        assert (refused.code, refused.error["code"]) == (1, "transport.server_unreachable")
        assert refused.error["why"] == "Connection refused"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"url = ",
        b"\xff\xfe",
        b'url = "https://127.0.0.1:1"\nca = "ca.crt"\n',
        b'url = "https://127.0.0.1:1"\nca = "ca.crt"\ntoken = "t"\ncolour = "red"\n',
        b'url = "http://127.0.0.1:1"\nca = "ca.crt"\ntoken = "t"\n',
        b'url = "nonsense"\nca = "ca.crt"\ntoken = "t"\n',
        b'url = "https://127.0.0.1:1"\nca = "none.crt"\ntoken = "t"\n',
        b'url = "https://127.0.0.1:1"\nca = "operator.toml"\ntoken = "t"\n',
        b'url = "https://127.0.0.1:1"\nca = "ca.crt"\ntoken = "\xc3\xa9"\n',
    ],
)
def test_a_context_that_is_missing_or_wrong(
    offline: Offline, other_site: Any, tmp_path: Path, content: bytes | None
) -> None:
    shutil.copy(other_site.server / "ca" / "ca.crt", tmp_path / "ca.crt")
    context = tmp_path / "operator.toml"
    if content is not None:
        context.write_bytes(content)
    refused = offline("device", "list", "--context", context, "-o", "json")
    assert (refused.code, refused.error["code"], refused.out) == (2, "request.invalid_config", "")
    assert str(tmp_path) in refused.error["message"]


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("typer", ["device", "list"], "client"),
        ("rich", ["device", "list"], "client"),
        ("httpx", ["--version"], "client"),
        ("onnx", ["model", "build", "."], "build"),
        ("fastapi", ["server", "run", "."], "controller"),
        ("tuf", ["trust", "quickstart", "--keys", "k", "--server", "s"], "controller"),
        ("sklearn", ["demo"], "demo"),
    ],
)
def test_a_missing_extra_is_named(module: str, words: list[str], extra: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 9, done.stderr
    first, why, do = done.stderr.splitlines()
    assert first.startswith("error[request.missing_extra]: ")
    assert module in why
    assert do == f"  do: pip install 'dsops[{extra}]'"


def test_wrong_usage_is_an_error_like_any_other(offline: Offline) -> None:
    for words, hint in (
        (("frobnicate",), "dsops --help"),
        (("device", "lst"), "dsops device --help"),
        (("device", "token"), "dsops device token --help"),
        (("device", "list", "--colour"), "dsops device list --help"),
        (("sample", "list", "--reason", "whim"), "dsops sample list --help"),
        (("rollout", "create", "m/1", "--timeout", "0"), "dsops rollout create --help"),
        (("bundle", "build", ".", "--to", "x", "--release", "0"), "dsops bundle build --help"),
    ):
        refused = offline(*words, "-o", "json")
        assert (refused.code, refused.error["code"], refused.error["hint"]) == (
            2,
            "request.invalid_input",
            f"see: {hint}",
        )
        assert "Value error" not in refused.error["message"]


def test_help_and_version(offline: Offline) -> None:
    for words in (("-h",), ("--help",), ("rollout", "create", "-h")):
        shown = offline(*words)
        assert (shown.code, shown.err) == (0, "")
        assert "Usage: dsops" in shown.out
    assert offline("--version").out.startswith("dsops ")
    assert offline("device").code == 2
    assert "Example: dsops rollout create" in " ".join(offline("rollout", "create", "-h").out.split())


def test_a_reader_that_goes_away_is_no_reason_for_a_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run([*PROGRAM, "-h"], stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_ends_a_command_with_130(other_site: Any, tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    context = tmp_path / "operator.toml"
    context.write_text(
        f'url = "https://127.0.0.1:{silent.getsockname()[1]}"\n'
        f'ca = {json.dumps(str(other_site.server / "ca" / "ca.crt"))}\ntoken = "t"\n'
    )
    command = [*PROGRAM, "device", "list", "--context", str(context)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with silent:
        silent.settimeout(30)
        connection, _ = silent.accept()
        with connection:
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_server_folder_is_made_once(offline: Offline, tmp_path: Path, other_site: Any) -> None:
    ports = ["--rest-port", "18443", "--broker-port", "18883"]
    made = offline("server", "init", tmp_path / "s", *ports, "-o", "json")
    assert (made.code, made.result["context"]) == (0, str(tmp_path / "s" / "operator.toml"))
    for words, code in (
        (("server", "init", tmp_path / "s"), 6),
        (("server", "init", tmp_path / "none" / "s"), 5),
        (("server", "init", tmp_path / "t", "--fleet", "Bad Name"), 2),
        (("server", "init", tmp_path / "t", "--rest-port", "70000"), 2),
        (("server", "run", tmp_path / "none"), 2),
        (("trust", "quickstart", "--keys", tmp_path / "k", "--server", tmp_path / "none"), 5),
        (("trust", "quickstart", "--keys", other_site.keys, "--server", other_site.server), 6),
        (("model", "grant", "Bad Name", "--keys", other_site.keys, "--server", other_site.server), 2),
        (("model", "grant", "faces", "--server", other_site.server), 2),
        (("trust", "renew", "fleet", "--server", other_site.server), 2),
        (("trust", "renew", "nothing", "--keys", other_site.keys, "--server", other_site.server), 5),
    ):
        refused = offline(*words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), (words, refused.err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def spoiled(recipe: Path, tmp_path: Path, old: str = "", new: str = "", **files: bytes) -> Path:
    """Copy a recipe; replace text in bundle.toml and whole files."""
    folder = tmp_path / "recipe"
    shutil.copytree(recipe, folder)
    toml = folder / "bundle.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def refused_build(offline: Offline, recipe: Path, tmp_path: Path) -> tuple[int, str, str]:
    refused = offline("model", "build", recipe, "--to", tmp_path / "out", "-o", "json")
    assert refused.out == ""
    assert not (tmp_path / "out").exists()
    return refused.code, refused.error["code"], json.dumps(refused.error)


def test_a_model_file_that_is_not_one(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path, model_onnx=b"this is not a model")
    assert refused_build(offline, folder, tmp_path)[:2] == (7, "model.invalid")


def test_a_cut_model_file(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path, model_onnx=(recipe / "model.onnx").read_bytes()[:-500])
    assert refused_build(offline, folder, tmp_path)[:2] == (7, "model.invalid")


def test_a_model_with_more_outputs_than_labels(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path, '"8", "9"]', '"8"]')
    code, error, text = refused_build(offline, folder, tmp_path)
    assert code in {2, 7}, text
    assert "10" in text
    assert "9" in text
    assert error in {"model.invalid", "request.invalid_input"}


def test_calibration_that_is_not_finite(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path)
    with np.load(recipe / "calibration.npz") as data:
        x, y = data["x"].copy(), data["y"]
    x[3, 0, 0, 0] = np.nan
    np.savez(folder / "calibration.npz", x=x, y=y)
    code, error, text = refused_build(offline, folder, tmp_path)
    assert (code, error) == (2, "request.invalid_input")
    assert "calibration" in text
    assert "frame 3" in text


def test_a_data_file_that_is_not_one(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path, calibration_npz=b"PK\x03\x04nothing")
    code, error, text = refused_build(offline, folder, tmp_path)
    assert (code, error) == (2, "request.invalid_input")
    assert "calibration.npz" in text


def test_an_unknown_key_in_a_recipe(offline: Offline, recipe: Path, tmp_path: Path) -> None:
    folder = spoiled(recipe, tmp_path, "max_accuracy_drop", "max_acuracy_drop")
    code, error, text = refused_build(offline, folder, tmp_path)
    assert (code, error) == (2, "request.invalid_config")
    assert "max_acuracy_drop" in text
    assert "bundle.toml" in text


def test_recipes_and_builds_that_are_not_there(offline: Offline, built: Path, tmp_path: Path) -> None:
    for words in (
        ("model", "build", tmp_path / "none"),
        ("bundle", "build", tmp_path, "--release", "1", "--to", tmp_path / "b"),
        ("bundle", "build", built, "--release", "1", "--to", tmp_path / "none" / "b"),
    ):
        assert offline(*words, "-o", "json").code == 2, words
    assert list(tmp_path.iterdir()) == []


def test_the_demonstration_needs_a_short_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    command = [*PROGRAM, "demo", "--devices", "2"]
    environment = os.environ | {"TMPDIR": str(deep)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "TMPDIR" in refused.stderr.splitlines()[-1]
    assert list(deep.iterdir()) == []
