"""Turns BATCH_MATMUL with constant weights into FULLY_CONNECTED, for which static quantization is right.

The quantizer gives the weights of a BATCH_MATMUL a scale for each channel, and the kernel reads the first one only: the
result is zeros, without an error.
"""

from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.tflite_writer import Table
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quantization.rewrite_model import Rewriting


def rewrite_matmuls(data: bytes) -> bytes:
    """Return the model with each BATCH_MATMUL replaced whose second operand is one constant float matrix.

    Those with two computed operands, with several constant matrices, or with a transposed first operand stay.
    The model's weights are inside its FlatBuffer.
    """
    operators = Graph(data).operators
    if not any(operator.name == "BATCH_MATMUL" for operator in operators):
        return data
    rewriting = Rewriting(data)
    entries = [
        entry
        for operator, entry in zip(operators, rewriting.graph.operators, strict=True)
        if operator.name == "BATCH_MATMUL"
    ]
    rewritten = [entry for entry in entries if _rewrite(rewriting, entry)]
    return rewriting.finish() if rewritten else data


def _rewrite(rewriting: Rewriting, entry: Table) -> bool:
    rows, weights = entry.inputs
    values, options = rewriting.constant(weights), entry.builtinOptions
    if values is None or values.ndim < 2 or (options is not None and options.adjX):
        return False
    if any(size != 1 for size in values.shape[:-2]) or len(rewriting.shape(rows)) < values.ndim:
        return False
    matrix = values.reshape(values.shape[-2:])
    transposed = matrix if options is not None and options.adjY else matrix.T
    entry.inputs = [rows, rewriting.add_constant(transposed), -1]
    connected = schema.FullyConnectedOptionsT()
    connected.keepNumDims = True
    rewriting.become(entry, schema.BuiltinOperator.FULLY_CONNECTED, connected)
    rewriting.drop_if_unused(weights)
    return True
