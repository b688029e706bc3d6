"""Convolutions: plain, depthwise and grouped, over images and over rows."""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.operators.transposed import conv_transpose, image_weights, scaled_weights
from dsops_controller.build.conversion.operators.windows import pad_zeros, place_window, read_window
from dsops_controller.build.conversion.writing import Conversion, Op, Value, is_clamped


def _conv(conversion: Conversion, node: Node) -> None:
    weights, image = image_weights(conversion, node), conversion.image(node, node.input(0))
    window = read_window(node, image, conversion.constant(node, 1).shape[2:])
    weights, bias, last = scaled_weights(conversion, node, weights, axis=0)
    code, options, laid_out = _conv_kind(node, weights, image)
    source, padding = place_window(conversion, node, image, window, pad_zeros)
    activation, name = conversion.fused_activation(last)
    options.padding, options.fusedActivationFunction = padding, activation
    options.strideH, options.strideW = window.strides
    options.dilationHFactor, options.dilationWFactor = window.dilations
    constants = [conversion.floats(f"{name}_weights", laid_out), conversion.floats(f"{name}_bias", bias)]
    shape = (image.shape[0], *window.output_size(), weights.shape[0])
    form = image.with_shape(shape, non_negative=is_clamped(activation))
    result = conversion.emit(code, [source, *constants], form, name, options)
    conversion.define_image(name, result, conversion.value(node, node.input(0)).rank)


def _conv_kind(node: Node, weights: Array, image: Value) -> tuple[int, Any, Array]:
    """Return operator, options and weights in TFLite's order. CONV_2D knows groups by the depth of its weights."""
    groups, depth = node.attributes["group"], image.shape[3]
    if groups < 1 or depth % groups or weights.shape[0] % groups or weights.shape[1] * groups != depth:
        raise node.refuse(f"its weights have shape {list(weights.shape)} with {groups} groups over {depth} channels")
    if groups == depth and groups > 1:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = weights.shape[0] // depth
        return Op.DEPTHWISE_CONV_2D, options, weights.transpose(1, 2, 3, 0)
    return Op.CONV_2D, schema.Conv2DOptionsT(), weights.transpose(0, 2, 3, 1)


HANDLERS: dict[str, Handler] = {"Conv": _conv, "ConvTranspose": conv_transpose}
"""Operators of this family."""
