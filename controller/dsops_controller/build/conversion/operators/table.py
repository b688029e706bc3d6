"""Every operator that can be converted."""

from dsops_controller.build.conversion.operators import (
    activations,
    convolutions,
    elementwise,
    matrices,
    normalization,
    parts,
    pools,
    recurrent,
    reductions,
    resize,
    shapes,
)
from dsops_controller.build.conversion.operators.elementwise import Handler

HANDLERS: dict[str, Handler] = {
    name: handler
    for family in (
        activations,
        convolutions,
        elementwise,
        matrices,
        normalization,
        parts,
        pools,
        recurrent,
        reductions,
        resize,
        shapes,
    )
    for name, handler in family.HANDLERS.items()
}
"""What writes an operator, by its name in ONNX; those that are only folded are in :mod:`..onnx_folding`."""
