"""Proves and serves bundles as the agent does, by the libraries that the interpreter running this has.

``bundle_server.py RUN_FOLDER DELEGATE OPERATOR ...``: DELEGATE is JSON, or empty. First it prints what its runtime is,
which of the operators that lacks, the data process's id, and why that does not use the delegate. Then it takes a path a
line, proves and activates that bundle, and prints how that went. It ends with its input.
"""

import json
import sys
import time
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.clock import SystemClock
from dsops.errors import DsopsError
from dsops_agent.install.ports import ProveLimits
from dsops_agent.operators import OperatorQuery
from dsops_agent.proof import Prover
from dsops_agent.runtime.channel import Header
from dsops_agent.runtime_process import Launch, RuntimeProcess, spawn

LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=2 << 30)


def store(_: str, header: Header, __: bytes) -> tuple[Header, bytes]:
    return {"stored": len(header["kinds"])}, b""


def wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def put_to_service(path: Path, prover: Prover, process: RuntimeProcess) -> dict[str, object]:
    try:
        prover.prove(path, LIMITS)
        manifest, digest = Bundle.open(path).manifest, file_digest(path)[0]
        fields = {"model": manifest.model, "path": str(path), "digest": digest, "release": manifest.release}
        process.channel.call("activate", timeout_s=60.0, **fields)
    except DsopsError as error:
        return error.as_dict()
    return {"serves": digest}


def tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(run_folder: Path, delegate: str, operators: tuple[str, ...]) -> None:
    found = OperatorQuery().ask(operators)
    settings = json.dumps({"interval_s": 0.5, "delegate": json.loads(delegate) if delegate else None})
    process = spawn(Launch(run_folder, settings), store, SystemClock(), wait)
    try:
        status = process.channel.call("status", timeout_s=60.0)[0]
        problem = (status["delegate"] or {}).get("problem", "")
        tell(runtime=found.runtime, version=found.version, missing=found.missing, pid=process.pid, problem=problem)
        for line in sys.stdin:
            tell(**put_to_service(Path(line.rstrip("\n")), Prover(1, delegate), process))
    finally:
        process.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:]))
