"""Triton's extensions: our messages have the field numbers that its clients write."""

import subprocess
import sys

PROGRAM = """
import tritonclient.grpc.service_pb2 as theirs
from dsops.api.v1 import inference_extensions_pb2 as ours  # both in one process: no name is taken twice

PAIRS = {
    "RepositoryIndexRequest": "RepositoryIndexRequest",
    "RepositoryIndexResponse": "RepositoryIndexResponse",
    "RepositoryIndexResponse.ModelIndex": "RepositoryIndexResponse.ModelIndex",
    "RepositoryModelRequest": "RepositoryModelLoadRequest",
    "SystemSharedMemoryStatusRequest": "SystemSharedMemoryStatusRequest",
    "SystemSharedMemoryStatusResponse": "SystemSharedMemoryStatusResponse",
    "SystemSharedMemoryStatusResponse.RegionStatus": "SystemSharedMemoryStatusResponse.RegionStatus",
    "SystemSharedMemoryRegisterRequest": "SystemSharedMemoryRegisterRequest",
    "SystemSharedMemoryUnregisterRequest": "SystemSharedMemoryUnregisterRequest",
}

def fields(module, path):
    found = module
    for name in path.split("."):
        found = getattr(found, name)
    return {f.name: (f.number, f.type, f.label if hasattr(f, "label") else None) for f in found.DESCRIPTOR.fields}

for mine, other in PAIRS.items():
    known, expected = fields(ours, mine), fields(theirs, other)
    expected.pop("parameters", None)  # of load and unload, which are refused whatever they hold
    assert known == expected, (mine, known, expected)
print(len(PAIRS))
"""


def test_field_numbers_are_tritons_and_both_live_in_one_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "9"), done.stderr
