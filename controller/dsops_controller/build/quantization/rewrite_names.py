"""Gives every tensor of a TFLite file a name of its own, as the quantizer needs it; the signature's names stay."""

from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.tflite_writer import pack


def rewrite_names(data: bytes) -> bytes:
    """Return the model with the later ones of equal names numbered, and missing ones made.

    The model's weights are inside its FlatBuffer.
    """
    if _are_unique(data):
        return data
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    taken = {tensor.name or b"" for tensor in tensors} | {b""}
    seen = {b""}
    for number, tensor in enumerate(tensors):
        name = tensor.name or b""
        if name in seen:
            tensor.name = _free_name(name or b"tensor", number, taken)
            taken.add(tensor.name)
        seen.add(name)
    return pack(model)


def _are_unique(data: bytes) -> bool:
    model = schema.Model.GetRootAs(data, 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    names = [graph.Tensors(index).Name() for graph in graphs for index in range(graph.TensorsLength())]
    return all(names) and len(set(names)) == len(names)


def _free_name(name: bytes, number: int, taken: set[bytes]) -> bytes:
    made = name + b"_%d" % number
    while made in taken:
        made += b"_"
    return made
