"""The trust store's process is killed before each of its changes to the disk; the next one must go on from there."""

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trust_stage import NEW_BUNDLE, Bench, new_signer, opened

from dsops.errors import StateDamaged, UntrustedBundle
from dsops_agent.trust.store import TrustStore

pytestmark = pytest.mark.slow

CHANGES = frozenset({"os.rename", "os.remove", "os.symlink", "os.mkdir", "os.truncate"})
KILLED = -signal.SIGKILL


def first_contact(_: Bench) -> None:
    return


def update(bench: Bench) -> None:
    """A new root with a new timestamp key, a new release, a new policy."""
    bench.accept()
    bench.repository.rotate("timestamp", new_signer())
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":2}')


def killed_at(number: int, folder: Path, action: Callable[[], None]) -> bool:
    """Run an action in a child that is killed before its ``number``-th change below a folder; tell whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or writes) and any(str(folder) in str(argument) for argument in arguments[:2]):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), "the child failed"
    return code == KILLED


def versions(folder: Path) -> dict[str, int]:
    found = {}
    for path in (folder / "metadata").glob("*.json"):
        found[path.name] = int(json.loads(path.read_bytes())["signed"]["version"])
    return found


@pytest.mark.parametrize("before", [first_contact, update])
def test_killed_at_every_change_it_goes_on(tmp_path: Path, before: Callable[[Bench], None]) -> None:
    with opened(tmp_path / "first") as bench:
        before(bench)
        repository = bench.repository
        repository.set_bundle(NEW_BUNDLE, b"release two", 2)
        repository.publish()
        bench.store.close()
        head, documents = repository.head, repository.documents()
        for number in range(1, 1000):
            folder = tmp_path / "copy"
            shutil.copytree(bench.folder, folder, symlinks=True)
            known = versions(folder)

            def accept(folder: Path = folder) -> None:
                TrustStore(folder, repository.first_root, bench.clock).accept("digits", head, documents)

            was_killed = killed_at(number, folder, accept)
            after = versions(folder)
            assert all(after[name] >= version for name, version in known.items() if name in after), "a version fell"
            check_recovery(folder, bench, head, documents)
            shutil.rmtree(folder)
            if not was_killed:
                break
        assert number > 20, "it was not killed"


def test_a_write_that_stops_half_way_tears_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as bench:
        update(bench)
        bench.repository.publish()
        bench.store.close()
        before = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}

        def accept() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            store = TrustStore(bench.folder, bench.repository.first_root, bench.clock)
            with pytest.raises(StateDamaged):
                store.accept("digits", bench.repository.head, bench.repository.documents())

        assert not killed_at(0, bench.folder, accept)
        assert {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()} == before


def check_recovery(folder: Path, bench: Bench, head: bytes, documents: dict[str, bytes]) -> None:
    store = TrustStore(folder, bench.repository.first_root, bench.clock)
    try:
        policy = store.policy("digits")  # the old one or the new one, whole
    except UntrustedBundle:
        policy = None
    assert policy is None or policy.floor in (1, 2)
    assert store.accept("digits", head, documents) == ()
    assert store.target("digits", NEW_BUNDLE) is not None
    assert (folder / "metadata" / "root.json").is_file()
    assert not list(folder.rglob(".*.tmp"))
    store.close()
