"""Asks the challenger's process, over its inference socket, what it says to a request of the champion's.

Values travel as real ones where the model's are: the scale of stored values is every bundle's own. The answer is read
back into the champion's outputs, by name.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import grpc
import numpy as np
from typing_extensions import override

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.errors import DeviceError, InvalidInput
from dsops_agent.rival import Rival
from dsops_agent.runtime.answer import Answer, Output, Values
from dsops_agent.runtime.engine import DTYPES, ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.oip import LATENCY

MAX_BYTES = 32 << 20
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class RivalUnavailable(DeviceError):
    """The challenger did not answer, or not in time. Nobody outside learns of it: the champion answers."""

    code = "challenger_unavailable"
    default_hint = ""


class RivalRefused(RivalUnavailable):
    """The challenger does not take this very request; that says nothing of the next one."""


@dataclass(frozen=True)
class RivalAnswer:
    """What a challenger says.

    Attributes:
        named: Its outputs by name, each of ``n`` frames.
        latency_us: Time in its interpreter, all frames together.
        waited_us: Time until its answer was here.
    """

    named: Mapping[str, Values]
    latency_us: int
    waited_us: float


@dataclass(frozen=True)
class ToldModel(ServedModel):
    """The champion as it encodes an answer that its challenger made: under the challenger's digest and release."""

    named: Mapping[str, Values] = field(default_factory=dict)

    @cached_property
    @override
    def offered(self) -> dict[str, Output]:
        """The outputs that the challenger gave, by name."""
        offered = super().offered
        return {name: replace(offered[name], take=_giving(values)) for name, values in self.named.items()}


def _giving(values: Values) -> Callable[[Answer], Values]:
    return lambda _answer: values


class RivalClient:
    """The challenger's process. Safe to use from several threads."""

    def __init__(self, rival: Rival) -> None:
        options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
        self._channel = grpc.insecure_channel(f"unix:{rival.socket}", options=options)
        self._ask = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._digest = rival.digest

    def ask(
        self,
        served: ServedModel,
        inputs: Mapping[str, Array],
        request_id: str,
        outputs: Iterable[str],
        timeout_s: float,
    ) -> RivalAnswer:
        """Return the challenger's answer.

        Args:
            served: The champion.
            inputs: Of the request, by name, as its caller sent them.
            request_id: What the caller calls it.
            outputs: Names of the champion's outputs that are wanted.
            timeout_s: How long to wait.

        Raises:
            RivalUnavailable: It gave none in time, or not what was asked for.
            RivalRefused: It finds fault with the request.
        """
        wanted = [served.offered[name] for name in outputs]
        request = encode_request(served, inputs, request_id, [output.name for output in wanted])
        began_s = time.perf_counter()
        try:
            response = self._ask(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            kind = RivalRefused if code is grpc.StatusCode.INVALID_ARGUMENT else RivalUnavailable
            raise kind("the challenger did not answer", why=str(code)) from error
        except ValueError as error:  # the connection was closed meanwhile: another challenger, or none, comes next
            raise RivalUnavailable("the challenger did not answer", why=str(error)) from error
        waited_us = (time.perf_counter() - began_s) * 1e6
        if response.parameters["digest"].string_param != self._digest:
            raise RivalUnavailable("another bundle answered than the challenger")
        named = read_outputs(response, wanted, len(next(iter(inputs.values()))))
        return RivalAnswer(named, response.parameters[LATENCY].int64_param, waited_us)

    def close(self) -> None:
        """End the connection; requests under way fail."""
        self._channel.close()


def encode_request(
    served: ServedModel, inputs: Mapping[str, Array], request_id: str, outputs: Iterable[str]
) -> pb.ModelInferRequest:
    """Return a request to the challenger with raw contents."""
    request = pb.ModelInferRequest(model_name=served.name, id=request_id)
    for position, spec in enumerate(served.manifest.inputs):
        given = inputs[spec.name]
        real = served.real_frames(position, given) if "FP32" in served.forms[spec.name].datatypes else given
        request.inputs.add(name=spec.name, datatype=_NAMES[real.dtype], shape=real.shape)
        little = np.ascontiguousarray(real, real.dtype.newbyteorder("<"))
        request.raw_input_contents.append(little.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_outputs(response: pb.ModelInferResponse, wanted: Iterable[Output], frames: int) -> dict[str, Values]:
    """Return the outputs of a response with raw contents, by name.

    Raises:
        RivalUnavailable: They are not those that were asked for.
    """
    raw = {tensor.name: data for tensor, data in zip(response.outputs, response.raw_output_contents, strict=False)}
    types = {tensor.name: tensor.datatype for tensor in response.outputs}
    try:
        return {output.name: _values(output, types[output.name], raw[output.name], frames) for output in wanted}
    except (KeyError, ValueError, InvalidInput) as error:
        raise RivalUnavailable("the challenger answered something else", why=str(error)) from error


def _values(output: Output, datatype: str, raw: bytes, frames: int) -> Values:
    if datatype != output.datatype:
        raise InvalidInput(f"output {output.name} is {datatype}, not {output.datatype}")
    if datatype == "BYTES":
        return _texts(raw, frames)
    dtype = DTYPES[datatype]
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(frames, *output.shape)


def _texts(raw: bytes, frames: int) -> list[bytes]:
    texts, at = [], 0
    while at + 4 <= len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : end])
        at = end
    if len(texts) != frames or at != len(raw):
        raise InvalidInput(f"{len(texts)} texts for {frames} frames")
    return texts
