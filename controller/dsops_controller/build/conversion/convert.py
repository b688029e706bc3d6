"""Reads model files: ONNX is converted to TFLite, TFLite is brought into its current form."""

import stat
from pathlib import Path

from dsops.errors import InvalidInput, InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.converters import ConvertedModel, DirectConverter
from dsops_controller.build.conversion.external import SET_UP, find_external
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.conversion.tflite_writer import normalize_tflite

__all__ = ["convert_onnx", "normalize_tflite", "read_converted", "read_model"]

_HINT = f"replace the operator, or {SET_UP}"


def convert_onnx(data: bytes) -> bytes:
    """Convert an ONNX model to a float32 TFLite model with batch 1, by the built-in converter.

    Raises:
        InvalidModel: The bytes are not a sound, self-contained ONNX model.
        UnsupportedModel: An operator, named with its node, or the model's form cannot be converted.
    """
    return DirectConverter().convert(data).data


def read_model(path: Path) -> bytes:
    """Read a model file as TFLite. See :func:`read_converted`."""
    return read_converted(path).data


def read_converted(path: Path) -> ConvertedModel:
    """Read a model file: ``.onnx`` is converted, ``.tflite`` is brought into the form that the quantizer needs.

    The file is only ever read. What the built-in converter does not know is left to the external one, where that is
    set up (see :mod:`dsops_controller.build.conversion.external`).

    Raises:
        InvalidInput: The file cannot be read, or its name ends in neither.
        InvalidModel: It is not what its name says.
        UnsupportedModel: It is ONNX that cannot be converted.
    """
    if path.suffix not in (".onnx", ".tflite"):
        raise InvalidInput(f"{path.name} is not a model file", why="its name ends in neither .onnx nor .tflite")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device would keep the build waiting
            raise InvalidInput(f"cannot read {path}", why="it is not a regular file")
        if found.st_size > MAX_MODEL_BYTES:
            raise InvalidModel(f"{path.name} is larger than {MAX_MODEL_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror)) from error
    return _convert(data) if path.suffix == ".onnx" else ConvertedModel(normalize_tflite(data))


def _convert(data: bytes) -> ConvertedModel:
    """Convert with the built-in converter, and where that knows no way with the external one, if that is set up."""
    try:
        return DirectConverter().convert(data)
    except UnsupportedModel as refusal:
        if "operator" not in refusal.details:
            raise
        external = find_external()
        if external is None:
            raise UnsupportedModel(refusal.what, why=refusal.why, hint=_HINT, **refusal.details) from refusal
        try:
            return external.convert(data)
        except UnsupportedModel as second:
            why = f"{refusal.why}; {second}"
            raise UnsupportedModel(refusal.what, why=why, hint=second.hint, **refusal.details) from second
