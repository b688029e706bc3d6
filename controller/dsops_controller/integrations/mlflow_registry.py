"""Models of an MLflow registry: ``models:/name@alias`` and ``models:/name/3``.

Only the documented REST interface is used, so that a build needs no MLflow. Adapter of
:class:`dsops_controller.build.registry.ModelRegistry`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from dsops.errors import InvalidInput, NotFound, TransportError
from dsops_controller.build.conversion.external_data import external_files, inline_external
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.registry import SCHEME, Located
from dsops_controller.integrations.mlflow_http import API, ARTIFACTS, MlflowServer, Row

MAX_FOLDERS = 50
MAX_FILES = 1000
_REFERENCE = re.compile(r"models:/(?P<name>[^/@:]{1,256})(?:@(?P<alias>[^/@:]{1,256})|/(?P<version>[0-9]{1,9}))")
_PROXIED = "mlflow-artifacts"
_MODEL_SUFFIXES = (".onnx", ".tflite")


@dataclass(frozen=True)
class Reference:
    """One version of a registered model, named by its number or by an alias that can move."""

    name: str
    alias: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a reference.

        Raises:
            InvalidInput: It is not of one of the two forms.
        """
        found = _REFERENCE.fullmatch(text)
        if not found:
            raise InvalidInput(
                f"{text} does not name a model of a registry",
                why=f"{SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION is needed",
                hint="set an alias: MlflowClient().set_registered_model_alias(name, alias, version)",
            )
        return cls(found["name"], found["alias"] or "", found["version"] or "")


class MlflowRegistry:
    """The registry of one MLflow server."""

    def __init__(self, server: MlflowServer) -> None:
        self._server = server

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "MlflowRegistry":
        """Return the registry that MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI names.

        Raises:
            InvalidConfig: There is none.
        """
        return cls(MlflowServer.from_environment(environment))

    def fetch(self, reference: str, folder: Path) -> Located:
        """Write the model of a version into a folder, weights that MLflow keeps beside it included.

        Raises:
            InvalidInput: The reference is not one, or the version does not hold exactly one .onnx or .tflite file, or
                its files are not reached through the server.
            NotFound: There is no such model, version or alias.
            TransportError: The server does not answer.
        """
        wanted = Reference.parse(reference)
        version = self._version(wanted)
        number = str(version.get("version", ""))
        root = self._artifacts(reference, wanted.name, number)
        path = self._download(reference, root, folder)
        facts = {
            "mlflow.model": wanted.name,
            "mlflow.version": number,
            "mlflow.alias": wanted.alias,
            "mlflow.run": str(version.get("run_id", "")),
        }
        return Located(path, {key: value for key, value in facts.items() if value})

    def _version(self, wanted: Reference) -> Row:
        path, selector = "registered-models/alias", {"alias": wanted.alias}
        if wanted.version:
            path, selector = "model-versions/get", {"version": wanted.version}
        version = self._server.ask(f"{API}/{path}", {"name": wanted.name} | selector).get("model_version")
        if not isinstance(version, dict):
            raise NotFound(f"{self._server.name} does not have the model {wanted.name}")
        return version

    def _artifacts(self, reference: str, name: str, version: str) -> str:
        """Return where a version's files are, as the server's proxy names it."""
        answer = self._server.ask(f"{API}/model-versions/get-download-uri", {"name": name, "version": version})
        place = urlsplit(str(answer.get("artifact_uri", "")))
        if place.scheme != _PROXIED or place.netloc not in ("", self._server.host):
            raise InvalidInput(
                f"the files of {reference} are not reached through {self._server.name}",
                why=f"they are at {place.scheme or 'a path'}:{place.netloc}",
                hint="start the server with --serve-artifacts, or run `mlflow artifacts download` and name the file",
            )
        return place.path.strip("/")

    def _download(self, reference: str, root: str, folder: Path) -> Path:
        models = [name for name in self._files(root) if name.endswith(_MODEL_SUFFIXES)]
        if len(models) != 1:
            raise InvalidInput(
                f"{reference} does not hold one model file",
                why=f"its .onnx and .tflite files: {', '.join(sorted(models)[:8]) or 'none'}",
                hint="log one model a version: mlflow.onnx.log_model(model, name=..., registered_model_name=...)",
            )
        (name,) = models
        path = folder / _base(name)
        left = MAX_MODEL_BYTES - self._server.download(_quoted(root, name), path, MAX_MODEL_BYTES)
        return self._inlined(path, f"{root}/{name}".rpartition("/")[0], left) if path.suffix == ".onnx" else path

    def _inlined(self, path: Path, root: str, left: int) -> Path:
        """Fetch the files in which a model keeps weights, and bring them into it."""
        data = path.read_bytes()
        names = external_files(data)
        if not names:
            return path
        for name in names:
            if name == path.name:
                raise InvalidInput(f"{name} keeps weights in itself")
            left -= self._server.download(_quoted(root, name), path.with_name(name), left)
        path.write_bytes(inline_external(data, path.parent))
        return path

    def _files(self, root: str) -> list[str]:
        """Return the name of every file, relative to the root; folders are entered within limits."""
        folders, names = [""], []
        for folder in folders:
            for entry in self._listing(f"{root}/{folder}".rstrip("/")):
                name = folder + _base(str(entry.get("path", "")))
                if entry.get("is_dir"):
                    folders.append(f"{name}/")
                else:
                    names.append(name)
            if len(folders) > MAX_FOLDERS or len(names) > MAX_FILES:
                raise InvalidInput(
                    "the model's folder holds too much", why=f"{MAX_FOLDERS} folders and {MAX_FILES} files are allowed"
                )
        return names

    def _listing(self, folder: str) -> list[Row]:
        entries = self._server.ask(ARTIFACTS, {"path": folder}).get("files", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise TransportError(f"{self._server.name} does not answer as an MLflow server", why=f"files in {folder}")
        return entries


def _base(path: str) -> str:
    """Return the last part of a path that a server gave; nothing that leads elsewhere."""
    name = path.rstrip("/").rpartition("/")[2]
    if name in {"", ".", ".."} or "\\" in name or "\0" in name:
        raise InvalidInput(f"the MLflow server names a file {path[:80]!r}")
    return name


def _quoted(root: str, name: str) -> str:
    return quote(f"{root}/{name}")
