"""Brings weights that an ONNX model keeps in other files into it, as registries often store them.

ONNX external data (onnx/docs/ExternalData.md): a tensor names a file by ``location``, and in it ``offset`` and
``length``. Only plain names are accepted, of files beside the model; nothing else is ever opened.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from dsops.errors import InvalidModel
from dsops_controller.build.authoring.embedded import as_text
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES, check_limits


def external_files(data: bytes) -> tuple[str, ...]:
    """Return the names of the files in which an ONNX model keeps weights, sorted.

    Raises:
        InvalidModel: The bytes are not an ONNX model, or it names a file that is not beside it.
    """
    return tuple(sorted({_location(tensor) for tensor in _external(_parse(data))}))


def inline_external(data: bytes, folder: Path) -> bytes:
    """Return a model with all its weights inside. Equal weights give equal bytes, whatever their files are called.

    Args:
        data: The ONNX file.
        folder: Where its files are.

    Raises:
        InvalidModel: A file is missing or too short, or all of it is larger than a model may be.
    """
    model = _parse(data)
    left = MAX_MODEL_BYTES - len(data)
    for tensor in _external(model):
        values = _read(tensor, folder, left)
        left -= len(values)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = values
    return bytes(model.SerializeToString(deterministic=True))


def _parse(data: bytes) -> onnx.ModelProto:
    check_limits(data)
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InvalidModel("the file is not an ONNX model", why=str(error).strip().split("\n", 1)[0]) from error


def _external(model: onnx.ModelProto) -> Iterator[TensorProto]:
    attributes = (entry.t for node in model.graph.node for entry in node.attribute if entry.HasField("t"))
    for tensor in (*model.graph.initializer, *attributes):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor


def _location(tensor: TensorProto) -> str:
    name = _entries(tensor).get("location", "")
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise InvalidModel(
            f"the ONNX model keeps {tensor.name!r} in {name!r}", why="only a file beside the model is ever opened"
        )
    return name


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {as_text(entry.key): as_text(entry.value) for entry in tensor.external_data}


def _read(tensor: TensorProto, folder: Path, limit: int) -> bytes:
    name, entries = _location(tensor), _entries(tensor)
    try:
        offset = int(entries.get("offset", "0"))
        path = folder / name
        if path.exists() and not path.is_file():  # a pipe or a device would keep the build waiting
            raise InvalidModel(f"the weights {tensor.name!r} are not there", why=f"{name}: it is not a regular file")
        length = int(entries.get("length", path.stat().st_size - offset))
        if offset < 0 or not 0 <= length <= limit:
            raise InvalidModel(f"the weights {tensor.name!r} are too large", why=f"{length} bytes at {offset}")
        with path.open("rb") as file:
            file.seek(offset)
            values = file.read(length)
    except ValueError as error:
        raise InvalidModel(f"the place of the weights {tensor.name!r} is damaged", why=str(error)) from error
    except OSError as error:
        raise InvalidModel(f"the weights {tensor.name!r} are not there", why=f"{name}: {error.strerror}") from error
    if len(values) != length:
        raise InvalidModel(
            f"the weights {tensor.name!r} are cut short", why=f"{name} lacks {length - len(values)} bytes"
        )
    return values
