"""Memory that a program shares with the agent of its device, for the inputs of :mod:`dsops.client`."""

import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops import access_list
from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.client_transport import Transport
from dsops.direct import Method
from dsops.errors import DsopsError, NoMemory

_SHM = Path("/dev", "shm")


class SharedInputs:
    """A region of shared memory that inputs are put into, made anew when it is too small, or belongs to a parent."""

    def __init__(self, transport: Transport, agent_uid: Callable[[], int]) -> None:
        self._transport = transport
        self._agent_uid = agent_uid
        self._name = ""
        self._pid = 0
        self._memory: mmap.mmap | None = None

    def put(self, request: pb.ModelInferRequest, tensors: list[NDArray[Any]]) -> None:
        """Put the values of a request's inputs into the region, and say in the request where they are."""
        memory = self._with_room(sum(values.nbytes for values in tensors))
        at = 0
        for tensor, values in zip(request.inputs, tensors, strict=True):
            np.frombuffer(memory, values.dtype, values.size, at).reshape(values.shape)[...] = values
            tensor.parameters["shared_memory_region"].string_param = self._name
            tensor.parameters["shared_memory_offset"].int64_param = at
            tensor.parameters["shared_memory_byte_size"].int64_param = values.nbytes
            at += values.nbytes

    def close(self) -> None:
        """Give the region back, also when the agent is gone."""
        if self._memory is None or self._pid != os.getpid():  # a program that was forked leaves it to its parent
            self._memory = None
            return
        wanted = extensions.SystemSharedMemoryUnregisterRequest(name=self._name)
        with suppress(DsopsError):
            self._transport.call(
                Method.SYSTEM_SHARED_MEMORY_UNREGISTER, wanted, extensions.SystemSharedMemoryUnregisterResponse
            )
        self._memory = None

    def _with_room(self, size: int) -> mmap.mmap:
        if self._memory is not None and self._pid == os.getpid() and len(self._memory) >= size:
            return self._memory
        self.close()
        name = f"dsops-{os.getpid()}-{secrets.token_hex(8)}"
        with _object(_SHM / name) as descriptor:
            memory = self._mapped(descriptor, size)
            wanted = extensions.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=size)
            self._transport.call(
                Method.SYSTEM_SHARED_MEMORY_REGISTER, wanted, extensions.SystemSharedMemoryRegisterResponse
            )
        self._name, self._memory, self._pid = name, memory, os.getpid()
        return memory

    def _mapped(self, descriptor: int, size: int) -> mmap.mmap:
        try:
            agent_uid = self._agent_uid()
            if agent_uid not in (0, os.geteuid()):
                os.setxattr(descriptor, access_list.ATTRIBUTE, access_list.for_users([agent_uid]))
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # as long as the mapping: it tells that its owner lives
            os.posix_fallocate(descriptor, 0, size)  # a full memory is an error here, not a signal later
            return mmap.mmap(descriptor, size)
        except OSError as error:
            raise _not_shared(error) from error


@contextmanager
def _object(path: Path) -> Iterator[int]:
    """Make a shared memory object; it is there until the end, by when both sides have it open."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_shared(error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)  # nothing is left behind, however this process ends


def _not_shared(error: OSError) -> NoMemory:
    return NoMemory(
        "no memory can be shared with the agent",
        why=error.strerror or str(error),
        hint=f"make room in {_SHM}, send fewer frames at once, or ask without shared_memory",
    )
