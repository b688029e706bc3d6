"""Networks trained on real scanned digits: int8 stays within the gate of one percent."""

from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from tflite_graphs import Floats, Operator, drawn

from dsops_controller.build.conversion.tflite_writer import TfliteWriter
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.demo.digits import Images, Splits

MAX_DROP = 0.01
MIN_AGREEMENT = 0.97
CALIBRATION_FRAMES = 100


def perceptron(data: Splits) -> bytes:
    """Return an MLP 64-40-10 as scikit-learn trains it."""
    trained = MLPClassifier((40,), learning_rate_init=0.01, tol=0.01, random_state=0)
    trained.fit(data.train.x.reshape(-1, 64), data.train.y)
    writer = TfliteWriter("test")
    image = writer.tensor("image", [1, 8, 8, 1])
    last = flat(writer, image, 64)
    for place, (weights, bias) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True)):
        last = layer(writer, last, weights, bias, relu=place == 0)
    return writer.finish({"image": image}, {"scores": softmax(writer, last)})


def lenet(data: Splits) -> bytes:
    """Return two drawn convolutions with a maximum behind each, and a head that is trained on their features."""
    features = LitertModel(convolutions(None)).run({"image": data.train.x})["features"]
    head = LogisticRegression(C=0.1, max_iter=1000).fit(features, data.train.y)
    return convolutions(head)


def convolutions(head: LogisticRegression | None) -> bytes:
    writer = TfliteWriter("test")
    image = last = writer.tensor("image", [1, 8, 8, 1])
    for place, (size, channels_in, channels_out) in enumerate([(8, 1, 8), (4, 8, 16)]):
        last = convolved(writer, last, place, size, drawn(channels_out, 3, 3, channels_in, seed=place, scale=0.4))
    last = flat(writer, last, 64)
    if head is None:
        return writer.finish({"image": image}, {"features": last})
    last = layer(writer, last, head.coef_.T, head.intercept_, relu=False)
    return writer.finish({"image": image}, {"scores": softmax(writer, last)})


def convolved(writer: TfliteWriter, source: int, place: int, size: int, weights: Floats) -> int:
    """Write a convolution of [size, size] with ReLU, and the maximum of each 2 by 2."""
    channels = len(weights)
    full, half = (
        writer.tensor(f"{name}{place}", [1, edge, edge, channels])
        for name, edge in (("conv", size), ("pool", size // 2))
    )
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    inputs = [source, writer.constant(f"w{place}", weights), writer.constant(f"b{place}", drawn(channels, scale=0.1))]
    writer.operator(Operator.CONV_2D, inputs, [full], options)
    pool = schema.Pool2DOptionsT()
    pool.filterHeight = pool.filterWidth = pool.strideH = pool.strideW = 2
    writer.operator(Operator.MAX_POOL_2D, [full], [half], pool)
    return half


def flat(writer: TfliteWriter, source: int, count: int) -> int:
    result = writer.tensor("flat", [1, count])
    shape = writer.constant("flat_shape", np.array([1, count], np.int32))
    writer.operator(Operator.RESHAPE, [source, shape], [result], schema.ReshapeOptionsT())
    return result


def layer(writer: TfliteWriter, source: int, weights: Images, bias: Images, *, relu: bool) -> int:
    """Write a fully connected layer; weights are [inputs, outputs]."""
    name = f"layer{source}"
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU if relu else 0
    kernel = writer.constant(f"{name}_w", np.ascontiguousarray(weights.T, np.float32))
    result = writer.tensor(name, [1, len(bias)])
    inputs = [source, kernel, writer.constant(f"{name}_b", bias.astype(np.float32))]
    writer.operator(Operator.FULLY_CONNECTED, inputs, [result], options)
    return result


def softmax(writer: TfliteWriter, source: int) -> int:
    result, options = writer.tensor("scores", [1, 10]), schema.SoftmaxOptionsT()
    options.beta = 1.0
    writer.operator(Operator.SOFTMAX, [source], [result], options)
    return result


@pytest.mark.parametrize("network", [perceptron, lenet])
def test_integers_stay_within_the_gate(network: Callable[[Splits], bytes], digits: Splits) -> None:
    model = network(digits)
    calibration = DataSet({"image": digits.calibration.x[:CALIBRATION_FRAMES]})
    before = answers(model, digits)
    accuracy = (before == digits.reference.y).mean()
    assert accuracy > 0.9
    for mode in (QuantMode.INT8, QuantMode.INT16X8, QuantMode.DYNAMIC8, QuantMode.WEIGHT8, QuantMode.FLOAT16):
        after = answers(quantize(model, mode, calibration).data, digits)
        assert (after == digits.reference.y).mean() >= accuracy - MAX_DROP, mode
        assert (after == before).mean() >= MIN_AGREEMENT, mode


def answers(model: bytes, data: Splits) -> Images:
    return LitertModel(model).run({"image": data.reference.x})["scores"].argmax(axis=1)
