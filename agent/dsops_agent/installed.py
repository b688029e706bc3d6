"""Which version of a package is installed, without what :mod:`importlib.metadata` loads for it: 2 MB in each process.

That reads a file in the format of e-mail; the name of its folder says the same.

Source: PyPA, "Recording installed projects" (``{name}-{version}.dist-info``, with the name's dashes as underscores).
"""

import importlib.metadata
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

_ENDING = ".dist-info"


def version_of(name: str) -> str:
    """Return the version of a package; an empty text when it is not installed.

    Args:
        name: Its name, in small letters; what it installs can be imported by this name with underscores.
    """
    package = name.replace("-", "_")
    found = recorded(package, sys.path)
    if found or PathFinder.find_spec(package) is None:
        return found
    try:  # somebody recorded it in another way
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def recorded(package: str, folders: Iterable[str]) -> str:
    """Return the version of the first record of a package in these folders, or an empty text."""
    begins = f"{package}-"
    for folder in folders:
        try:
            names = sorted(found.name for found in Path(folder).iterdir())
        except OSError:  # an archive, or not there
            continue
        for name in names:
            if name.lower().startswith(begins) and name.endswith(_ENDING):
                return name[len(begins) : -len(_ENDING)]
    return ""
