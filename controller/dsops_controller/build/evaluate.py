"""Compares a quantized model with its float model on labelled data, and decides whether it is good enough."""

from dataclasses import asdict, dataclass

import numpy as np

from dsops.errors import AccuracyGateFailed
from dsops_controller.build.arrays import Labelled, check_frames, check_labels
from dsops_controller.build.litert import LitertModel, require_labels

DATA = "the evaluation data"
MAX_ACCURACY_DROP = 0.01
MIN_AGREEMENT = 0.97
_SLACK = 1e-9
"""Differences of shares of a count carry rounding errors; a drop of exactly what is allowed passes."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one comparison; accuracies and agreement are shares in 0..1.

    Attributes:
        frames: Number of labelled frames.
        float_accuracy: Share of frames that the float model labels rightly.
        quantized_accuracy: The same of the quantized model.
        agreement: Share of frames to which both give the same label.
        max_score_difference: Largest difference of any score.
        mean_score_difference: Mean absolute difference of the scores.
        float_bytes: Size of the float model.
        quantized_bytes: Size of the quantized model.
        float_latency_us: Median time of one inference on this machine, one thread.
        quantized_latency_us: The same of the quantized model.
    """

    frames: int
    float_accuracy: float
    quantized_accuracy: float
    agreement: float
    max_score_difference: float
    mean_score_difference: float
    float_bytes: int
    quantized_bytes: int
    float_latency_us: float
    quantized_latency_us: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)

    @property
    def accuracy_drop(self) -> float:
        """How much accuracy quantization cost; below zero when it gained some."""
        return self.float_accuracy - self.quantized_accuracy


def evaluate(float_model: bytes, quantized_model: bytes, data: Labelled, labels_count: int) -> Evaluation:
    """Run both models on every frame.

    Raises:
        InvalidInput: The data does not fit the model or its labels.
        InvalidModel: A model cannot be run, or its output does not match its labels.
    """
    plain, quantized = LitertModel(float_model), LitertModel(quantized_model)
    require_labels(plain, labels_count)
    require_labels(quantized, labels_count)
    x = check_frames(data.x, DATA, plain.input.shape[1:])
    y = check_labels(data.y, len(x), DATA, labels_count)
    expected, got = plain.run(x), quantized.run(x)
    difference = np.abs(expected - got)
    return Evaluation(
        frames=len(x),
        float_accuracy=float((expected.argmax(axis=1) == y).mean()),
        quantized_accuracy=float((got.argmax(axis=1) == y).mean()),
        agreement=float((expected.argmax(axis=1) == got.argmax(axis=1)).mean()),
        max_score_difference=float(difference.max()),
        mean_score_difference=float(difference.mean()),
        float_bytes=len(float_model),
        quantized_bytes=len(quantized_model),
        float_latency_us=plain.median_latency_us(x),
        quantized_latency_us=quantized.median_latency_us(x),
    )


def check_gate(
    evaluation: Evaluation, max_accuracy_drop: float = MAX_ACCURACY_DROP, min_agreement: float = MIN_AGREEMENT
) -> None:
    """Refuse a quantized model that is worse than allowed.

    Raises:
        AccuracyGateFailed: It lost more accuracy, or agrees with the float model less often, than the gate allows.
    """
    if evaluation.accuracy_drop > max_accuracy_drop + _SLACK:
        raise AccuracyGateFailed(
            f"quantization lowers accuracy from {evaluation.float_accuracy:.2%} to {evaluation.quantized_accuracy:.2%}",
            why=f"the gate allows a drop of {max_accuracy_drop:.2%} on {evaluation.frames} frames",
        )
    if evaluation.agreement < min_agreement - _SLACK:
        raise AccuracyGateFailed(
            f"the quantized model agrees with the float model on {evaluation.agreement:.2%} of frames",
            why=f"the gate asks for {min_agreement:.2%} on {evaluation.frames} frames",
        )
