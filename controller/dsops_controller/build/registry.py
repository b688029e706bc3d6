"""Where a source model comes from: a file of the recipe's folder, or a registry of models."""

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dsops.errors import MissingExtra

SCHEME = "models:/"
"""How a source begins that is in a registry: ``models:/name@alias``, ``models:/name/3``."""


@dataclass(frozen=True)
class Located:
    """A source model's file, and what its registry says of it."""

    path: Path
    facts: Mapping[str, str] = field(default_factory=dict)


class ModelRegistry(Protocol):
    """Holds versions of models under names."""

    def fetch(self, reference: str, folder: Path) -> Located:
        """Write the model that a reference names into a folder. The facts say which version it was.

        Raises:
            InvalidInput: The reference is not of this registry's form, or what it names holds no single model file.
            NotFound: There is no such model, version or alias.
            TransportError: The registry does not answer.
        """


def is_registered(source: str) -> bool:
    """Say whether a source is in a registry."""
    return source.startswith(SCHEME)


@contextmanager
def located(source: str, folder: Path, registry: ModelRegistry | None = None) -> Iterator[Located]:
    """Give the file of a source. What a registry gave is removed at the end.

    Args:
        source: A file's name, or a reference into a registry.
        folder: What the file's name is relative to.
        registry: Where references lead; by default to the MLflow server that the environment names.

    Raises:
        InvalidConfig: The environment names no registry.
        MissingExtra: The extra that reaches it is not installed.
        DsopsError: As :meth:`ModelRegistry.fetch`.
    """
    if not is_registered(source):
        yield Located(folder / source)
        return
    with tempfile.TemporaryDirectory(prefix="dsops-model-") as work:
        yield (registry or _environments_registry()).fetch(source, Path(work))


def _environments_registry() -> ModelRegistry:
    try:
        adapter = importlib.import_module("dsops_controller.integrations.mlflow_registry")
    except ImportError as error:
        if (error.name or "").startswith("dsops"):
            raise
        raise MissingExtra(
            "a model of a registry needs the extra 'client'",
            why=f"{error.name} is not installed",
            hint="pip install 'dsops[build,client]'",
        ) from error
    registry: ModelRegistry = adapter.MlflowRegistry.from_environment()
    return registry
