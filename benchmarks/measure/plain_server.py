"""A peer of the local inference API: the same protocol, nothing behind it but the interpreter."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from measure.asking import Loop
from measure.child import wait_for_end_of_input

SERVICE = "inference.GRPCInferenceService"
DTYPES = {"INT8": np.int8, "FP32": np.float32}


def answer(loop: Loop, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Return the scores of the frames; the caller is trusted."""
    tensor = request.inputs[0]
    frames = np.frombuffer(request.raw_input_contents[0], DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
    scores = loop(frames)
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    response.outputs.add(name="scores", datatype="FP32", shape=scores.shape)
    response.raw_output_contents.append(scores.tobytes())
    return response


def main() -> None:
    """Serve a model (second argument) on a Unix socket (first argument) until the end of the input."""
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    server = grpc.server(ThreadPoolExecutor(1), options=options)
    loop = Loop(Path(sys.argv[2]))
    infer = grpc.unary_unary_rpc_method_handler(
        lambda request, context: answer(loop, request),
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
