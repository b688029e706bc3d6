"""The peer of the local inference API: the same protocol, nothing behind it but the interpreter."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from measure.child import wait_for_end_of_input
from measure.interpreter import BareInterpreter

SERVICE = "inference.GRPCInferenceService"


def answer(bare: BareInterpreter, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Return the scores of the frames; the caller is trusted."""
    shape = tuple(request.inputs[0].shape)
    scores = bare.run(np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape))
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    response.outputs.add(name="scores", datatype="FP32", shape=scores.shape)
    response.raw_output_contents.append(scores.tobytes())
    return response


def main() -> None:
    """Serve a model (second argument) on a Unix socket (first argument) until the end of the input."""
    server = grpc.server(ThreadPoolExecutor(1))
    bare = BareInterpreter(Path(sys.argv[2]))
    infer = grpc.unary_unary_rpc_method_handler(
        lambda request, context: answer(bare, request),
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": infer}),))
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    wait_for_end_of_input()
    server.stop(0).wait()


if __name__ == "__main__":
    main()
