"""Starts the data process as the agent does, with bundles active."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime_bundles import MadeBundle

from dsops.clock import SystemClock
from dsops_agent.runtime.channel import Header
from dsops_agent.runtime_process import Launch, RuntimeProcess, spawn


@contextmanager
def serving(folder: Path, *bundles: MadeBundle, **settings: object) -> Iterator[RuntimeProcess]:
    process = spawn(Launch(folder, json.dumps({"interval_s": 0.5, **settings})), _store, SystemClock(), _wait)
    try:
        process.channel.call("status")  # answered once both sockets are there
        for bundle in bundles:
            process.channel.call(
                "activate",
                model=bundle.manifest.model,
                path=str(bundle.path),
                digest=bundle.digest,
                release=bundle.manifest.release,
            )
        yield process
    finally:
        process.end()


def _store(op: str, header: Header, body: bytes) -> tuple[Header, bytes]:
    return {"stored": len(header["kinds"])}, b""


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False
