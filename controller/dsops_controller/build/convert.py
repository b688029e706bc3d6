"""Turns ONNX into TFLite directly, for the operators of multilayer perceptrons and convolutional networks.

No TensorFlow is involved and nothing is executed: the graph is read, checked and written again. An image input is
[1, C, H, W] in ONNX and [1, H, W, C] in the result, and so are all image tensors between, as TFLite's kernels want it;
a transpose is written only where the layout matters (see :mod:`dsops_controller.build.conversion`).
"""

import struct
from collections.abc import Iterable
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidInput, InvalidModel
from dsops_controller.build.conversion import Conversion
from dsops_controller.build.onnx_graph import OnnxGraph, parse_onnx
from dsops_controller.build.onnx_ops import HANDLERS
from dsops_controller.build.tflite_writer import Table, is_tflite, pack, signature

MAX_MODEL_BYTES = 1 << 30
_DAMAGE = (
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
"""What the readers of both formats, and arithmetic with what they read, raise on a damaged file."""


def convert_onnx(data: bytes) -> bytes:
    """Convert an ONNX model to a float32 TFLite model with batch 1.

    Raises:
        InvalidModel: The bytes are not a sound, self-contained ONNX model.
        UnsupportedModel: An operator, named with its node, or the model's form cannot be converted.
    """
    try:
        return _write(parse_onnx(data))
    except _DAMAGE as error:
        raise InvalidModel(
            "the ONNX model contradicts itself", why=f"{type(error).__name__} while reading it"
        ) from error


def _write(graph: OnnxGraph) -> bytes:
    for node in graph.nodes:
        if node.operator not in HANDLERS:
            raise node.refuse("no conversion is known for this operator")
    conversion = Conversion(graph)
    for node in graph.nodes:
        if not conversion.is_done(node):
            HANDLERS[node.operator](conversion, node)
    return conversion.finish()


def read_model(path: Path) -> bytes:
    """Read a model file as TFLite: ``.onnx`` is converted, ``.tflite`` is brought into the form the quantizer needs.

    Raises:
        InvalidInput: The file cannot be read, or its name ends in neither.
        InvalidModel: It is not what its name says.
        UnsupportedModel: It is ONNX that cannot be converted.
    """
    if path.suffix not in (".onnx", ".tflite"):
        raise InvalidInput(f"{path.name} is not a model file", why="its name ends in neither .onnx nor .tflite")
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise InvalidModel(f"{path.name} is larger than {MAX_MODEL_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror)) from error
    return convert_onnx(data) if path.suffix == ".onnx" else normalize_tflite(data)


def normalize_tflite(data: bytes) -> bytes:
    """Return a TFLite model in the current form: operator codes in their present field, and a signature.

    Files of old converters lack both; quantization would leave their operators as they are, silently.

    Raises:
        InvalidModel: The bytes are not a readable TFLite model.
    """
    if not is_tflite(data):
        raise InvalidModel("the file is not a TFLite model", why="it lacks the identifier TFL3")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        for code in model.operatorCodes:
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        if not model.signatureDefs:
            model.signatureDefs = [_signature_of(model.subgraphs[0])]
        return pack(model)
    except _DAMAGE as error:
        raise InvalidModel("the TFLite model is damaged", why=f"{type(error).__name__} while reading it") from error


def _signature_of(graph: Table) -> Table:
    def named(indices: Iterable[int]) -> dict[str, int]:
        return {_text(graph.tensors[index].name): int(index) for index in indices}

    return signature(named(graph.inputs), named(graph.outputs))


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
