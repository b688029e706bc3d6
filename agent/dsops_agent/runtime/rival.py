"""Asks the challenger's process, over its direct socket, what it says to a request of the champion's.

It gets what the caller sent, raw frames as raw ones: each bundle makes its own input of them. Stored values travel as
real ones where the model has these: their scale is every bundle's own. What the challenger would take for something
else is not asked. The answer is read back into the champion's outputs, by name.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from typing_extensions import override

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.call_status import CallStatus
from dsops.described import Described, makes_the_same
from dsops.direct import MAX_BODY_BYTES, DirectChannel, Method, direct_path
from dsops.errors import DeviceError, DsopsError, InvalidInput
from dsops.forms import Form
from dsops_agent.rival import Rival
from dsops_agent.runtime.answer import Answer, Output, Values
from dsops_agent.runtime.engine import DTYPES, NAMES, ServedModel
from dsops_agent.runtime.oip import FORM, LATENCY
from dsops_agent.runtime.sent import Sent, SentInputs, frames_in

ROOM_BYTES = 64 << 10
"""What a request has beside the values, at most."""
Reply = TypeVar("Reply", bound=Message)


class RivalUnavailable(DeviceError):
    """The challenger did not answer, or not in time. Nobody outside learns of it: the champion answers."""

    code = "challenger_unavailable"
    default_hint = ""


class RivalRefused(RivalUnavailable):
    """The challenger does not take this very request; that says nothing of the next one."""

    code = "challenger_refused_input"


class OtherForm(RivalRefused):
    """It takes the input in other forms than the champion does."""

    code = "challenger_other_form"


class OtherPreprocessing(RivalRefused):
    """Its real values are made otherwise than the champion's, and the caller made them."""

    code = "challenger_other_preprocessing"


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
        self._channel = DirectChannel(direct_path(rival.socket), late_s=0.0)
        self._digest = rival.digest
        self._described: Mapping[str, Described] | None = None

    def ask(
        self, served: ServedModel, sent: SentInputs, request_id: str, outputs: Iterable[str], timeout_s: float
    ) -> RivalAnswer:
        """Return the challenger's answer.

        Args:
            served: The champion.
            sent: Inputs of the request, by name, as its caller sent them.
            request_id: What the caller calls it.
            outputs: Names of the champion's outputs that are wanted.
            timeout_s: How long to wait.

        Raises:
            RivalUnavailable: It gave none in time, or not what was asked for.
            RivalRefused: It finds fault with the request, or was not asked: it would take the values for others.
        """
        ends_s = time.monotonic() + timeout_s
        described = self._describe(served, timeout_s)
        wanted = [served.offered[name] for name in outputs]
        request = encode_request(served, described, sent, request_id, [output.name for output in wanted])
        began_s = time.perf_counter()
        response = self._call(Method.MODEL_INFER, request, pb.ModelInferResponse, ends_s - time.monotonic())
        waited_us = (time.perf_counter() - began_s) * 1e6
        if response.parameters["digest"].string_param != self._digest:
            raise RivalUnavailable("another bundle answered than the challenger")
        named = read_outputs(response, wanted, frames_in(sent))
        return RivalAnswer(named, response.parameters[LATENCY].int64_param, waited_us)

    def close(self) -> None:
        """End the connection; requests under way fail."""
        self._channel.close()

    def _describe(self, served: ServedModel, timeout_s: float) -> Mapping[str, Described]:
        """Return what the challenger says of its inputs, which is asked for once: it is one bundle."""
        if self._described is None:
            asked = pb.ModelMetadataRequest(name=served.name)
            said = self._call(Method.MODEL_METADATA, asked, pb.ModelMetadataResponse, timeout_s)
            try:
                self._described = {one.name: Described.read(one.name, said.properties) for one in said.inputs}
            except InvalidInput as error:
                raise RivalUnavailable("the challenger does not say what it takes", why=str(error)) from error
        return self._described

    def _call(self, method: Method, request: Message, reply: type[Reply], timeout_s: float) -> Reply:
        try:
            status, body = self._channel.call(method, request.SerializeToString(), max(timeout_s, 0.001))
        except DsopsError as error:  # also when another challenger, or none, comes next, and this connection was closed
            raise RivalUnavailable("the challenger did not answer", why=str(error)) from error
        if status:
            kind = RivalRefused if status == CallStatus.INVALID_ARGUMENT else RivalUnavailable
            raise kind("the challenger did not answer", why=body.decode(errors="replace")[:200])
        return reply.FromString(body)


def encode_request(
    served: ServedModel,
    described: Mapping[str, Described],
    sent: SentInputs,
    request_id: str,
    outputs: Iterable[str],
) -> pb.ModelInferRequest:
    """Return a request to the challenger with raw contents, of what the champion's caller sent.

    Raises:
        RivalRefused: The challenger takes an input in other forms, its real values are made otherwise, or it is longer
            than can be passed on.
    """
    passed = {
        spec.name: passed_on(served, position, sent[spec.name]) for position, spec in enumerate(served.manifest.inputs)
    }
    size_bytes = sum(one.values.nbytes for one in passed.values())
    if size_bytes > MAX_BODY_BYTES - ROOM_BYTES:
        raise RivalRefused("a request is too long to be passed on", why=f"{size_bytes} bytes")
    request = pb.ModelInferRequest(model_name=served.name, id=request_id)
    for name, one in passed.items():
        check_form(served.forms[name].described, described.get(name), one)
        tensor = request.inputs.add(name=name, datatype=NAMES[one.values.dtype], shape=one.values.shape)
        tensor.parameters[FORM].string_param = one.form
        little = np.ascontiguousarray(one.values, one.values.dtype.newbyteorder("<"))
        request.raw_input_contents.append(little.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def passed_on(served: ServedModel, position: int, sent: Sent) -> Sent:
    """Return an input as it is passed on: as it was sent, and real values where stored ones have a scale."""
    described = served.forms[served.manifest.inputs[position].name].described
    if sent.form is Form.STORED and described.takes(Form.REAL):
        return Sent(Form.REAL, served.real_frames(position, sent.values))
    return sent


def check_form(champion: Described, challenger: Described | None, sent: Sent) -> None:
    """Check that a challenger takes values for what the champion's caller meant by them.

    Raises:
        OtherForm: It does not take this form of them, or takes it for something else.
        OtherPreprocessing: Real values for the champion are not real values for it.
    """
    accepted = challenger.takes(sent.form) if challenger else None
    if challenger is None or accepted is None or not accepted.fits(NAMES[sent.values.dtype], sent.values.shape[1:]):
        raise OtherForm(f"the challenger takes no {sent.form} values like these for {champion.name!r}")
    if sent.form is Form.RAW:
        if champion.raw_color != challenger.raw_color:
            raise OtherForm(f"the challenger takes other colours for {champion.name!r}")
    elif not makes_the_same(champion.section, challenger.section):
        raise OtherPreprocessing(
            f"the {sent.form} values of {champion.name!r} were made for the champion",
            why="the challenger's preprocessing makes others",
        )


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
