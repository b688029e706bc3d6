"""The protocol of programs on the device is nobody's dialect: the file is KServe's, byte for byte."""

import hashlib
from pathlib import Path

from dsops.api.v1 import open_inference_grpc_pb2 as pb

PROTO = Path(__file__).parents[2] / "protos/dsops/api/v1/open_inference_grpc.proto"
UPSTREAM_SHA256 = "0f715460d60b014a23e06ac8e768cfa3d8336221cdb66bd7aeeab6dc27620b0f"
"""Of specification/protocol/open_inference_grpc.proto at commit eeb043e of kserve/open-inference-protocol."""


def test_the_file_is_unedited() -> None:
    assert hashlib.sha256(PROTO.read_bytes()).hexdigest() == UPSTREAM_SHA256


def test_the_service_has_the_name_that_clients_call() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert {method.name for method in service.methods} == {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    }
