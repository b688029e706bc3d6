"""Figures that programs report over REST, as JSON."""

from collections.abc import Mapping

from dsops.errors import InvalidInput
from dsops_agent.runtime.kpis import Figure

_KEYS = {"name", "value", "unit", "model", "tags"}


def read(told: Mapping[str, object]) -> Figure:
    """Return the figure of a JSON object: ``name``, ``value``, and if wanted ``unit``, ``model`` and ``tags``.

    Raises:
        InvalidInput: A key is missing, unknown, or of another type.
    """
    if unknown := sorted(told.keys() - _KEYS):
        raise InvalidInput(f"a figure has no {unknown[0][:64]!r}", why=f"it has {', '.join(sorted(_KEYS))}")
    value, tags = told.get("value"), told.get("tags", {})
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1.7e308:
        raise InvalidInput("the value of a figure is a finite number", why=f"got {str(value)[:64]}")
    if not isinstance(tags, dict) or not all(isinstance(each, str) for each in tags.values()):
        raise InvalidInput("the tags of a figure are an object of texts")
    return Figure(_text(told, "name"), float(value), _text(told, "unit"), _text(told, "model"), tags)


def _text(told: Mapping[str, object], key: str) -> str:
    found = told.get(key, "")
    if not isinstance(found, str):
        raise InvalidInput(f"the {key} of a figure is a text", why=f"got {str(found)[:64]}")
    return found
