"""Parameters of windows, padding, resizing and slicing, drawn at random, against onnxruntime."""

import contextlib

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_families import Net
from onnx_parity import parity

from dsops.errors import UnsupportedModel

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
SIZE = st.integers(4, 9)
SMALL = st.integers(1, 3)
PADDED = st.sampled_from(("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], dict[str, object]]:
    """Return an image's height and width, and a window's attributes."""
    size, kernel = [draw(SIZE), draw(SIZE)], [draw(SMALL), draw(SMALL)]
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": [draw(SMALL), draw(SMALL)]}
    mode = draw(PADDED)
    if mode == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, side - 1)) for side in kernel * 2]
    else:
        attributes["auto_pad"] = mode
    return size, attributes


def check(net: Net, y: str) -> None:
    """Check that a conversion gives what onnxruntime gives, or is refused with a reason."""
    data = net.model(y=y).SerializeToString()
    with contextlib.suppress(UnsupportedModel):
        assert parity(data) < 1e-5


@FEW
@given(windows(), st.sampled_from((1, 2, 4)), SMALL)
def test_any_convolution(window: tuple[list[int], dict[str, object]], groups: int, dilation: int) -> None:
    size, attributes = window
    net, kernel = Net(), attributes["kernel_shape"]
    x = net.input("x", [1, 4, size[0] + 4, size[1] + 4])
    weights = net.weights(8, 4 // groups, *kernel)
    spread = [dilation] * 2 if "auto_pad" not in attributes else [1, 1]
    check(net, net.node("Conv", x, weights, net.weights(8), group=groups, dilations=spread, **attributes))


@FEW
@given(windows(), st.booleans(), st.booleans(), st.booleans())
def test_any_pool(window: tuple[list[int], dict[str, object]], largest: bool, up: bool, counted: bool) -> None:
    size, attributes = window
    if "auto_pad" in attributes:  # onnxruntime computes negative padding when the window is smaller than its step
        attributes["strides"] = [
            min(pair) for pair in zip(attributes["strides"], attributes["kernel_shape"], strict=True)
        ]
    net = Net(opset=20)
    x = net.input("x", [1, 3, *size])
    rounding = {"ceil_mode": int(up and "auto_pad" not in attributes)}
    if largest:
        check(net, net.node("MaxPool", x, **attributes, **rounding))
    else:
        check(net, net.node("AveragePool", x, count_include_pad=int(counted), **attributes, **rounding))


@FEW
@given(windows(), st.integers(0, 2))
def test_any_transposed_convolution(window: tuple[list[int], dict[str, object]], added: int) -> None:
    size, attributes = window
    net = Net()
    strides = attributes["strides"]
    more = [min(added, step - 1) for step in strides]
    x = net.input("x", [1, 3, *size])
    weights = net.weights(3, 2, *attributes["kernel_shape"])
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        attributes = {"kernel_shape": attributes["kernel_shape"], "strides": strides}
    check(net, net.node("ConvTranspose", x, weights, output_padding=more, **attributes))


@FEW
@given(
    st.tuples(SIZE, SIZE),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(("nearest", "linear")),
    st.sampled_from(("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")),
    st.sampled_from(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
)
def test_any_resize(before: tuple[int, int], after: tuple[int, int], mode: str, way: str, rounding: str) -> None:
    net = Net()
    sizes = net.integers(1, 2, *after)
    modes = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rounding}
    check(net, net.node("Resize", net.input("x", [1, 2, *before]), "", "", sizes, **modes))


@FEW
@given(
    st.lists(
        st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.sampled_from((1, 2, -1, -3))), min_size=1, max_size=2
    )
)
def test_any_slice(spans: list[tuple[int, int, int]]) -> None:
    axes = [2, 1][: len(spans)]
    if any(
        len(range(9)[slice(start, None if step < 0 and end < -9 else end, step)]) == 0 for start, end, step in spans
    ):
        return
    net = Net()
    starts, ends, steps = (net.integers(*(span[part] for span in spans)) for part in range(3))
    check(net, net.node("Slice", net.input("x", [1, 9, 9, 2]), starts, ends, net.integers(*axes), steps))


@FEW
@given(st.permutations(range(4)), st.permutations(range(4)), st.integers(0, 3), st.booleans())
def test_any_order_of_axes(first: list[int], second: list[int], axis: int, keep: bool) -> None:
    net = Net()
    x = net.node("Transpose", net.node("Relu", net.input("x", [1, 3, 4, 5])), perm=first)
    x = net.node("ReduceMean", net.node("Transpose", x, perm=second), axes=[axis], keepdims=int(keep))
    check(net, net.node("Exp", x))


@FEW
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.sampled_from(("constant", "reflect", "edge")))
def test_any_padding(pads: list[int], mode: str) -> None:
    net = Net(opset=18)
    pads[0] = pads[1] = pads[4] = pads[5] = 0
    check(
        net,
        net.node("Pad", net.input("x", [1, 2, 5, 6]), net.integers(*pads), net.constant(np.float32(0.5)), mode=mode),
    )
