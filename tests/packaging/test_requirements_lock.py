"""requirements.lock pins all that pyproject.toml asks for, by hash, and says nothing about where it comes from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ("demo", "postgresql", "hsm")
PINNED = re.compile(
    r"(?P<requirement>[a-z0-9][a-z0-9.-]*==[^\s;]+(?: ; [^\\]*?)?)(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


def lock_entries() -> list[str]:
    text = (ROOT / "requirements.lock").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [entry for entry in "\n".join(lines).replace("\\\n", " ").splitlines() if entry.strip()]


def pins() -> list[Requirement]:
    matched = [PINNED.fullmatch(entry) for entry in lock_entries()]
    return [Requirement(match["requirement"]) for match in matched if match]


def environment(python: str, machine: str) -> dict[str, str]:
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}
    versions = {"python_version": python, "python_full_version": f"{python}.1"}
    return {key: str(value) for key, value in default_environment().items()} | linux | cpython | versions


def asked_for(extra: str) -> Iterator[Requirement]:
    """Yields the requirements of an extra; an extra that names other extras of dsops is followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == "dsops":
            for other in requirement.extras:
                yield from asked_for(other)
        else:
            yield requirement


def direct_requirements() -> list[Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plain = [*document["project"]["dependencies"], *document["dependency-groups"]["dev"]]
    return [Requirement(line) for line in plain] + [r for extra in EXTRAS for r in asked_for(extra)]


def test_every_entry_is_one_version_with_hashes() -> None:
    entries = lock_entries()
    assert len(entries) > len(direct_requirements())
    assert [entry for entry in entries if not PINNED.fullmatch(entry)] == []


@pytest.mark.parametrize("sign", ["://", "@", "/", "find-links", "index"])
def test_lock_names_no_place(sign: str) -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert sign not in text


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_lock_answers_every_direct_requirement_once(python: str, machine: str) -> None:
    here = environment(python, machine)
    applying = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(here)]
    wanted = [want for want in direct_requirements() if want.marker is None or want.marker.evaluate(here)]
    assert len({pin.name for pin in applying}) == len(applying), "one package is pinned twice"
    version_of = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in applying}
    unmet = [str(w) for w in wanted if not w.specifier.contains(version_of.get(canonicalize_name(w.name), "0.dev0"))]
    assert unmet == []


def test_protobuf_stays_on_the_series_that_every_client_accepts() -> None:
    (protobuf,) = [pin for pin in pins() if pin.name == "protobuf"]
    assert str(protobuf.specifier).startswith("==6.33.")
