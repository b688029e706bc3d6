"""Brings a TFLite file's weights into its FlatBuffer.

A writer of large files may put weights behind the FlatBuffer and refer to them by position (``Buffer.offset``). Older
runtimes do not know that, and a program that decodes such a file and encodes it again would lose them.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel
from dsops_controller.build.conversion.tflite_writer import pack

_FIRST_POSITION = 2
"""Positions below this stand for "not outside"."""


def inline_buffers(data: bytes) -> bytes:
    """Return the model with every weight inside; it is the same bytes when they are already.

    Raises:
        InvalidModel: A weight is said to lie outside the file.
    """
    root = schema.Model.GetRootAs(data, 0)
    if not any(root.Buffers(index).Offset() >= _FIRST_POSITION for index in range(root.BuffersLength())):
        return data
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for index, buffer in enumerate(model.buffers):
        if buffer.offset < _FIRST_POSITION:
            continue
        if buffer.offset + buffer.size > len(data):
            raise InvalidModel(f"buffer {index} of the TFLite model lies outside the file")
        buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return pack(model)
