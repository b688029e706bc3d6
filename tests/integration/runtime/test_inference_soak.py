"""An inference process under everything that programs do to its sockets, at once and again and again.

For a longer one by hand: ``SOAK_S=450``, the seconds of each of its two halves.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from runtime_bundles import MadeBundle, make_bundle, scores_of, tflite
from serving_runtime import serving
from soak_clients import POLITE, ROWS, RUDE, Field, is_served

from dsops_agent.runtime.litert import LoadedModel
from dsops_agent.runtime_process import RuntimeProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SOAK_S = float(os.environ.get("SOAK_S", "20"))
LATE_S = 120.0
"""The limit only ends a test that would fail anyway."""
SAME = 5
GROWTH = 1.05
FEW = 4
"""Descriptors and threads that come and go by themselves."""
AS_GRPC_HAS = 16
"""Threads that gRPC makes when more calls come at once than before, and keeps."""


@dataclass(frozen=True)
class Kept:
    """What a process has open."""

    descriptors: int
    threads: int
    bytes: int

    @classmethod
    def by(cls, process: RuntimeProcess) -> "Kept":
        proc = Path(f"/proc/{process.pid}")
        bytes_ = int(process.channel.call("status")[0]["rss_bytes"])
        return cls(len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())), bytes_)

    def is_no_more_than(self, before: "Kept") -> bool:
        return (
            self.descriptors <= before.descriptors + FEW
            and self.threads <= before.threads + AS_GRPC_HAS
            and self.bytes <= GROWTH * before.bytes
        )


def settled(process: RuntimeProcess) -> Kept:
    """Return what a process keeps when nobody asks any more: what did not change for a while."""
    found, ends_s = [Kept.by(process)], time.monotonic() + LATE_S
    while len(set(found[-SAME:])) > 1 or len(found) < SAME:
        assert time.monotonic() < ends_s, f"what it keeps does not settle: {found}"
        time.sleep(0.5)
        found.append(Kept.by(process))
    return found[-1]


class Soak:
    """A process, and what its releases have to answer."""

    def __init__(self, process: RuntimeProcess, socket: Path, bundles: list[MadeBundle], gains: list[float]) -> None:
        self.process, self.bundles = process, bundles
        networks = [LoadedModel(tflite(int8=False, gain=gain)) for gain in gains]
        scores = [scores_of(network, ROWS) for network in networks]
        self.expected = {bundle.digest: found for bundle, found in zip(bundles, scores, strict=True)}
        self.socket = socket
        self.swaps = 0

    def go_on(self, seconds: float) -> Field:
        """Let everybody ask for so long; every release has answered everybody that behaves."""
        there = Field(self.socket, self.expected)
        clients = [(f"{number} {ask.__name__}", ask) for number, ask in enumerate(POLITE + RUDE)]
        threads = [threading.Thread(target=there.run, args=client, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        ends_s = time.monotonic() + seconds
        try:
            while time.monotonic() < ends_s:
                self._swap()
                self._wait_for(there, [name for name, ask in clients if ask in POLITE])
            self._wait_for(there, [name for name, _ in clients])
        finally:
            there.ended.set()
            for thread in threads:
                thread.join(120)
        assert [thread.name for thread in threads if thread.is_alive()] == []
        return there

    def _swap(self) -> None:
        self.swaps += 1
        bundle = self.bundles[self.swaps % len(self.bundles)]
        manifest = bundle.manifest
        named = {"model": manifest.model, "digest": bundle.digest, "release": manifest.release}
        self.process.channel.call("activate", timeout_s=60.0, path=str(bundle.path), **named)

    def _wait_for(self, there: Field, names: list[str]) -> None:
        """Wait until each of these clients has come to an end once more."""
        before, ends_s = there.rounds.copy(), time.monotonic() + LATE_S
        while waits := [name for name in names if there.rounds[name] == before[name]]:
            assert there.problems == []
            assert time.monotonic() < ends_s, f"nobody serves {waits}: {there}"
            time.sleep(0.01)


def test_whatever_programs_do_everybody_is_served_and_nothing_is_kept(tmp_path: Path, short_path: Path) -> None:
    gains = [2.0, 2.5, 3.0]
    bundles = [make_bundle(tmp_path, release=n, int8=False, gain=gain) for n, gain in enumerate(gains, 1)]
    with serving(short_path, bundles[0]) as process:
        soak = Soak(process, short_path / "inference.sock", bundles, gains)
        first = soak.go_on(SOAK_S)
        before = settled(process)
        second = soak.go_on(SOAK_S)
        assert is_served(second)
        print(f"{soak.swaps} swaps; {before}, then {Kept.by(process)}", first, second, sep="\n")
        after, ends_s = Kept.by(process), time.monotonic() + LATE_S
        while not after.is_no_more_than(before):
            assert time.monotonic() < ends_s, f"{after} after {before}"
            time.sleep(0.1)
            after = Kept.by(process)
