"""The locks pin all that pyproject.toml asks for, by hash, and say nothing about where it comes from."""

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
LOCK, TFLITE_LOCK = "requirements.lock", "requirements-tflite.lock"
both_locks = pytest.mark.parametrize("lock", [LOCK, TFLITE_LOCK])
PINNED = re.compile(
    r"(?P<requirement>[a-z0-9][a-z0-9.-]*==[^\s;]+(?: ; [^\\]*?)?)(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


def lock_entries(lock: str) -> list[str]:
    text = (ROOT / lock).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [entry for entry in "\n".join(lines).replace("\\\n", " ").splitlines() if entry.strip()]


def pins(lock: str = LOCK) -> list[Requirement]:
    matched = [PINNED.fullmatch(entry) for entry in lock_entries(lock)]
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


def direct_requirements(lock: str = LOCK) -> list[Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plain = list(document["project"]["dependencies"])
    if lock == LOCK:
        plain += document["dependency-groups"]["dev"]
    extras = EXTRAS if lock == LOCK else ("agent-tflite",)
    return [Requirement(line) for line in plain] + [r for extra in extras for r in asked_for(extra)]


def unmet(lock: str, here: dict[str, str]) -> list[str]:
    """Return what is asked for there and not pinned so; one package has one version."""
    applying = [pin for pin in pins(lock) if pin.marker is None or pin.marker.evaluate(here)]
    wanted = [want for want in direct_requirements(lock) if want.marker is None or want.marker.evaluate(here)]
    assert len({pin.name for pin in applying}) == len(applying), "one package is pinned twice"
    version_of = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in applying}
    return [str(w) for w in wanted if not w.specifier.contains(version_of.get(canonicalize_name(w.name), "0.dev0"))]


@both_locks
def test_every_entry_is_one_version_with_hashes(lock: str) -> None:
    entries = lock_entries(lock)
    assert len(entries) > len({requirement.name for requirement in direct_requirements(lock)})
    assert [entry for entry in entries if not PINNED.fullmatch(entry)] == []


@both_locks
@pytest.mark.parametrize("sign", ["://", "@", "/", "find-links", "index"])
def test_lock_names_no_place(lock: str, sign: str) -> None:
    text = (ROOT / lock).read_text()
    assert sign not in text


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_lock_answers_every_direct_requirement_once(python: str, machine: str) -> None:
    assert unmet(LOCK, environment(python, machine)) == []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "armv7l"])
def test_the_lock_of_the_older_runtime_is_for_the_newest_python_that_it_has_wheels_for(machine: str) -> None:
    assert unmet(TFLITE_LOCK, environment("3.11", machine)) == []
    named = {pin.name: str(pin.specifier) for pin in pins(TFLITE_LOCK)}
    assert named["tflite-runtime"] == "==2.14.0"
    assert "ai-edge-litert" not in named


def test_protobuf_stays_on_the_series_that_every_client_accepts() -> None:
    (protobuf,) = [pin for pin in pins() if pin.name == "protobuf"]
    assert str(protobuf.specifier).startswith("==6.33.")
