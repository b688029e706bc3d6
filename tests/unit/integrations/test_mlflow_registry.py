"""The MLflow adapter against a real HTTP server that speaks the part of MLflow's REST interface that is used."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from dsops.errors import (
    DsopsError,
    InvalidConfig,
    InvalidInput,
    InvalidModel,
    NotFound,
    ServerUnreachable,
    TransportError,
    Unauthorized,
)
from dsops_controller.build.conversion.external_data import external_files, inline_external
from dsops_controller.build.registry import Located, located
from dsops_controller.integrations.mlflow_registry import MAX_FOLDERS, MlflowRegistry, Reference

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = "0/models/m-1/artifacts"


@dataclass
class Registry:
    """What the server holds: one version of the model ``digits``, and its files."""

    files: dict[str, bytes] = field(default_factory=dict)
    uri: str = f"mlflow-artifacts:/{ROOT}"
    token: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Answers of a server that is broken or hostile, by path."""

    def answer(self, target: str, authorization: str) -> tuple[int, bytes]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), {key: value[0] for key, value in parse_qs(parts.query).items()}
        self.asked.append(path)
        if path in self.instead:
            return self.instead[path]
        if self.token and authorization != f"Bearer {self.token}":
            return 401, b"You are not authenticated."
        if path.startswith(f"{ARTIFACTS}/"):
            data = self.files.get(path.removeprefix(f"{ARTIFACTS}/{ROOT}/"))
            return (200, data) if data is not None else (404, error("RESOURCE_DOES_NOT_EXIST", "No such artifact"))
        if path == ARTIFACTS:
            return 200, json.dumps({"files": self.entries(query["path"].removeprefix(ROOT).strip("/"))}).encode()
        return self.version(path.removeprefix(API), query)

    def version(self, call: str, query: dict[str, str]) -> tuple[int, bytes]:
        if query.get("name") != "digits" or query.get("version", "7") != "7":
            return 404, error("RESOURCE_DOES_NOT_EXIST", f"Model Version (name={query.get('name')}) not found")
        if call == "registered-models/alias" and query["alias"] != "champion":
            return 400, error("INVALID_PARAMETER_VALUE", f"Registered model alias {query['alias']} not found.")
        if call == "model-versions/get-download-uri":
            return 200, json.dumps({"artifact_uri": self.uri}).encode()
        known = {"name": "digits", "version": "7", "run_id": "r1", "source": "models:/m-1", "status": "READY"}
        return 200, json.dumps({"model_version": known}).encode()

    def entries(self, folder: str) -> list[dict[str, object]]:
        inside = [name.removeprefix(f"{folder}/") if folder else name for name in self.files if name.startswith(folder)]
        folders = {name.partition("/")[0] for name in inside if "/" in name}
        files = [{"path": name, "is_dir": False, "file_size": 1} for name in inside if "/" not in name]
        return [*files, *({"path": name, "is_dir": True} for name in sorted(folders))]


def error(code: str, message: str) -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


@pytest.fixture
def registry() -> Iterator[Registry]:
    held = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = held.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        held.url = f"http://127.0.0.1:{server.server_port}"
        yield held
        server.shutdown()


@pytest.fixture
def fetch(registry: Registry, tmp_path: Path) -> Callable[..., Located]:
    def run(reference: str = "models:/digits@champion", **environment: str) -> Located:
        (tmp_path / "work").mkdir()
        given = {"MLFLOW_TRACKING_URI": registry.url} | environment
        return MlflowRegistry.from_environment(given).fetch(reference, tmp_path / "work")

    return run


def network() -> onnx.ModelProto:
    """Return a small network with a weight that is large enough to be stored outside."""
    weight = numpy_helper.from_array(np.arange(1024, dtype=np.float32).reshape(4, 256), "w")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 256]),
    ]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outside(folder: Path, location: str) -> tuple[bytes, bytes]:
    """Return a model with its weight in another file, as mlflow.onnx.log_model stores it, and that file."""
    folder.mkdir()
    model = network()
    external_data_helper.convert_model_to_external_data(model, location=location, size_threshold=0)
    onnx.save(model, folder / "model.onnx")
    return (folder / "model.onnx").read_bytes(), (folder / location).read_bytes()


def test_a_version_by_alias_and_by_number(registry: Registry, tmp_path: Path) -> None:
    registry.files = {"MLmodel": b"flavors:", "model.onnx": b"a model", "requirements.txt": b""}
    adapter = MlflowRegistry.from_environment({"MLFLOW_TRACKING_URI": registry.url})
    registry.files["model.onnx"] = network().SerializeToString()
    for reference, alias in (("models:/digits@champion", {"mlflow.alias": "champion"}), ("models:/digits/7", {})):
        with located(reference, Path("nowhere"), adapter) as found:
            assert found.path.read_bytes() == registry.files["model.onnx"]
            assert found.facts == {"mlflow.model": "digits", "mlflow.version": "7", "mlflow.run": "r1"} | alias
        assert not found.path.exists()


def test_the_registry_that_the_environment_names(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.files = {"data/model.tflite": b"TFL3"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry.url)
    with located("models:/digits/7", Path()) as found:
        assert (found.path.name, found.path.read_bytes()) == ("model.tflite", b"TFL3")


def test_weights_beside_the_model_are_brought_into_it(
    registry: Registry, fetch: Callable[..., Located], tmp_path: Path
) -> None:
    model, weights = outside(tmp_path / "a", "0b5e.data")
    registry.files = {"model.onnx": model, "0b5e.data": weights}
    found = fetch().path.read_bytes()
    assert external_files(found) == ()
    (kept,) = onnx.load_model_from_string(found).graph.initializer
    assert np.array_equal(numpy_helper.to_array(kept), np.arange(1024, dtype=np.float32).reshape(4, 256))
    other, _ = outside(tmp_path / "b", "77aa.data")
    assert inline_external(other, tmp_path / "b") == found  # whatever the file's name is, which MLflow draws by lot


def test_a_token_and_who_has_none(registry: Registry, fetch: Callable[..., Located], tmp_path: Path) -> None:
    registry.files, registry.token = {"model.tflite": b"TFL3"}, "secret"
    with pytest.raises(Unauthorized) as caught:
        fetch()
    assert "MLFLOW_TRACKING_TOKEN" in caught.value.hint
    (tmp_path / "work").rmdir()
    assert fetch(MLFLOW_TRACKING_TOKEN="secret").path.read_bytes() == b"TFL3"


@pytest.mark.parametrize(
    "text",
    ["models:/digits", "models:/digits@", "models:/digits/latest", "models:/a/b/3", "models:/@x", "models:/a@b/3", "x"],
)
def test_a_reference_of_another_form(text: str) -> None:
    with pytest.raises(InvalidInput, match="does not name a model"):
        Reference.parse(text)


@pytest.mark.parametrize(
    "reference", ["models:/digits@challenger", "models:/digits/8", "models:/other/7", "models:/other@champion"]
)
def test_what_the_registry_does_not_have(reference: str, fetch: Callable[..., Located]) -> None:
    with pytest.raises(NotFound):
        fetch(reference)


def test_an_environment_that_names_no_server() -> None:
    for environment in (
        {},
        {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
        {"MLFLOW_TRACKING_URI": "./mlruns"},
        {"MLFLOW_TRACKING_URI": "databricks"},
        {"MLFLOW_TRACKING_URI": "http://h", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/none.pem"},
    ):
        with pytest.raises(InvalidConfig):
            MlflowRegistry.from_environment(environment)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    adapter = MlflowRegistry.from_environment({"MLFLOW_TRACKING_URI": "http://user:word@127.0.0.1:1"})
    with pytest.raises(ServerUnreachable) as caught:
        adapter.fetch("models:/digits/7", tmp_path)
    assert "word" not in f"{caught.value}{caught.value.hint}"


def test_files_that_are_not_one_model(registry: Registry, fetch: Callable[..., Located], tmp_path: Path) -> None:
    for files in ({}, {"model.pkl": b""}, {"a.onnx": b"", "b.onnx": b""}, {"a.onnx": b"", "q/a.tflite": b""}):
        registry.files = files
        with pytest.raises(InvalidInput, match="one model file"):
            fetch()
        (tmp_path / "work").rmdir()


@pytest.mark.parametrize("uri", ["s3://bucket/m", "file:///etc", "/etc", "mlflow-artifacts://elsewhere/m", ""])
def test_files_that_the_server_does_not_serve(uri: str, registry: Registry, fetch: Callable[..., Located]) -> None:
    registry.uri = uri
    with pytest.raises(InvalidInput, match="not reached"):
        fetch()


LISTING = ARTIFACTS
ALIAS = f"{API}registered-models/alias"


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (ALIAS, (500, b"<html>"), TransportError),
        (ALIAS, (302, b""), TransportError),
        (ALIAS, (200, b"not JSON"), TransportError),
        (ALIAS, (200, b"[]"), TransportError),
        (ALIAS, (200, b"{}"), NotFound),
        (ALIAS, (200, b'{"x": "' + b"y" * (5 << 20) + b'"}'), TransportError),
        (ALIAS, (200, b"[" * 200_000), TransportError),
        (LISTING, (200, b'{"files": [{"path": "..", "is_dir": true}]}'), InvalidInput),
        (LISTING, (200, b'{"files": [{"path": "a\\\\b.onnx"}]}'), InvalidInput),
        (LISTING, (200, b'{"files": [{"path": "d", "is_dir": true}]}'), InvalidInput),
        (LISTING, (200, b'{"files": [7]}'), TransportError),
        (LISTING, (200, b'{"files": 7}'), TransportError),
    ],
)
def test_a_server_that_answers_badly(
    path: str,
    answer: tuple[int, bytes],
    expected: type[DsopsError],
    registry: Registry,
    fetch: Callable[..., Located],
    tmp_path: Path,
) -> None:
    registry.instead = {path: answer}
    with pytest.raises(expected):
        fetch()
    assert list((tmp_path / "work").iterdir()) == []
    assert len(registry.asked) <= MAX_FOLDERS + 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("location", "../secret"),
        ("location", "/etc/hostname"),
        ("location", "a\\b"),
        ("location", ".."),
        ("location", ""),
        ("offset", "-1"),
        ("offset", "9" * 30),
        ("offset", "x"),
        ("length", "-5"),
        ("length", "99999"),
        ("length", str(1 << 40)),
    ],
)
def test_hostile_places_of_weights(key: str, value: str, tmp_path: Path) -> None:
    data, _ = outside(tmp_path / "m", "w.data")
    (tmp_path / "secret").write_bytes(b"s" * 8192)
    model = onnx.load_model_from_string(data)
    (tensor,) = model.graph.initializer
    entries = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
    del tensor.external_data[:]
    for name, text in entries.items():
        tensor.external_data.add(key=name, value=text)
    with pytest.raises(InvalidModel):
        inline_external(model.SerializeToString(), tmp_path / "m")


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    data, _ = outside(tmp_path / "m", "w.data")
    (tmp_path / "m" / "w.data").unlink()
    os.mkfifo(tmp_path / "m" / "w.data")
    with pytest.raises(InvalidModel, match="it is not a regular file"):
        inline_external(data, tmp_path / "m")


def test_a_place_that_is_not_utf_8(tmp_path: Path) -> None:
    data, _ = outside(tmp_path / "m", "w.data")
    with pytest.raises(InvalidModel, match="not there"):
        inline_external(data.replace(b"w.data", b"w\xffdata"), tmp_path / "m")
