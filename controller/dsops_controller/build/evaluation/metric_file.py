"""Loads a user's own metric: ``metric = "my_metrics.py:iou"`` in a recipe.

The file lies in the recipe's folder and is run, with all rights of the user who builds: whoever writes the recipe
writes the code. Nothing is ever loaded from a model or a data file. The function takes every output by name, each
[N, ...], and the truth ``y`` (None when the data has none); it returns a number, or numbers by name, of which higher
is better. What the file prints goes to standard error, for standard output belongs to the command's result.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from dsops.errors import InvalidConfig
from dsops_controller.build.evaluation.answers import CustomMetric

_MODULE = "dsops_recipe_metric_"


def load_metric(spec: str, folder: Path) -> CustomMetric:
    """Load a metric; its name is that of the function.

    Args:
        spec: ``file.py:function``, the file relative to the recipe's folder and inside it.
        folder: The recipe's folder.

    Raises:
        InvalidConfig: The text has another form, the file lies elsewhere or cannot be run, or has no such function.
    """
    file_name, colon, name = spec.partition(":")
    if not colon or not file_name.endswith(".py") or not name.isidentifier():
        raise InvalidConfig(f"the metric {spec!r} is not known", why='it is neither built in nor "file.py:function"')
    path = (folder / file_name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InvalidConfig(f"the metric {spec!r} lies outside the recipe's folder", why=f"it is {path}")
    if not path.is_file():
        raise InvalidConfig(f"the metric {spec!r} cannot be loaded", why=f"there is no file {path}")
    function = getattr(_run(path, spec), name, None)
    if not callable(function):
        raise InvalidConfig(f"the metric {spec!r} cannot be loaded", why=f"{path.name} has no function {name!r}")
    return CustomMetric(name, function)


def _run(path: Path, spec: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"{_MODULE}{path.stem}", path)
    if found is None or found.loader is None:
        raise InvalidConfig(f"the metric {spec!r} cannot be loaded", why=f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(found)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the recipe's folder is never written to
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a file that leaves must not end the build as if all were well
        raise InvalidConfig(
            f"the metric {spec!r} cannot be loaded", why=f"{path.name}: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.dont_write_bytecode = writes
    return module
