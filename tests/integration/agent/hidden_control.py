"""A control process whose /proc hides the runtime of a sealed model; prints what it came to."""

import json
import sys
import time
from pathlib import Path

from runtime_bundles import make_bundle
from sealed_compass import sealed

from dsops.clock import SystemClock
from dsops_agent.runtime_process import Launch, RuntimeProcess, adopt, spawn


def started(launch: Launch, folder: Path) -> RuntimeProcess:
    process = spawn(launch, lambda *_: ({}, b""), SystemClock(), lambda wait_s: bool(time.sleep(wait_s)))
    folder.mkdir()
    bundle = sealed(make_bundle(folder))
    fields = {"model": bundle.manifest.model, "path": str(bundle.path), "digest": bundle.digest, "release": 1}
    process.channel.call("activate", bundle.key.data, **fields)
    return process


def main(run_folder: Path, scratch: Path) -> dict[str, object]:
    launch = Launch(run_folder, '{"queue": 3}')
    first = started(launch, scratch / "first")
    found: dict[str, object] = {"is_hidden": not Path(f"/proc/{first.pid}").exists()}
    first.channel.close()
    taken = adopt(launch, lambda *_: ({}, b""))
    found["is_taken_over"] = taken is not None and taken.pid == first.pid
    if taken:
        taken.channel.close()
    found["is_replaced"] = adopt(Launch(run_folder, '{"queue": 4}'), lambda *_: ({}, b"")) is None
    found["replaced_ended_with"] = first.child.poll() if first.child else None
    second = started(launch, scratch / "second")
    found["was_killed"] = second.end()
    found["ended_with"] = second.child.poll() if second.child else None
    return found


print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
