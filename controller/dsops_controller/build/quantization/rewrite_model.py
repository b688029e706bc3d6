"""A TFLite model that is being rewritten: decoded, changed, and encoded again."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.tflite_writer import Table, pack
from dsops_controller.build.data import Array, Floats


class Rewriting:
    """The decoded form of a model whose weights are inside its FlatBuffer; its first subgraph is worked on."""

    def __init__(self, data: bytes) -> None:
        self.model: Table = schema.ModelT.InitFromPackedBuf(data, 0)
        self.graph: Table = self.model.subgraphs[0]

    def finish(self) -> bytes:
        """Return the model as a file."""
        return pack(self.model)

    def constant(self, index: int) -> Floats | None:
        """Return the values of a constant float32 tensor; nothing when it is not one."""
        tensor = self.graph.tensors[index]
        stored = self.model.buffers[tensor.buffer].data
        if index < 0 or stored is None or tensor.type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(np.asarray(stored, np.uint8).tobytes(), np.float32).reshape(self.shape(index))

    def shape(self, index: int) -> tuple[int, ...]:
        """Return a tensor's shape."""
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def add_constant(self, values: Floats) -> int:
        """Add a constant float32 tensor; return its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = schema.TensorT()
        tensor.name = f"dsops_constant_{len(self.graph.tensors)}"
        tensor.shape, tensor.hasRank = [int(size) for size in values.shape], True
        tensor.type, tensor.buffer = schema.TensorType.FLOAT32, len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def make_constant(self, index: int, values: Array) -> None:
        """Give a tensor, which nothing writes any more, fixed values of its own type."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1

    def become(self, entry: Table, code: int, options: Table) -> None:
        """Make an operator another one.

        Args:
            entry: The operator.
            code: Its new code in the schema's ``BuiltinOperator``.
            options: Its new options' table.
        """
        entry.opcodeIndex = self._operator_code(code)
        entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        entry.builtinOptions = options

    def drop_if_unused(self, index: int) -> None:
        """Empty a constant's buffer when nothing refers to the tensor and no other tensor to the buffer."""
        buffer = self.graph.tensors[index].buffer
        tensors = [tensor for graph in self.model.subgraphs for tensor in graph.tensors]
        shared = sum(tensor.buffer == buffer for tensor in tensors) > 1
        read = any(index in entry.inputs for entry in self.graph.operators) or index in self.graph.outputs
        if not shared and not read:
            self.model.buffers[buffer].data = None

    def _operator_code(self, code: int) -> int:
        for index, entry in enumerate(self.model.operatorCodes):
            if max(entry.builtinCode, entry.deprecatedBuiltinCode) == code and not entry.customCode:
                return index
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        self.model.operatorCodes.append(entry)
        return len(self.model.operatorCodes) - 1
