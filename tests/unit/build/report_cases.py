"""Evaluations and reports with chosen figures, for the tests of gate and reports."""

from dsops.manifest import Lineage, Task
from dsops_controller.build.evaluation.evaluation import (
    ClassFigures,
    ClassRow,
    Confusion,
    Evaluation,
    Figure,
    Latency,
    Measured,
    Memory,
    Reliability,
    SliceRow,
)
from dsops_controller.build.evaluation.gate import Verdict
from dsops_controller.build.evaluation.metrics import Difference, ReliabilityBin
from dsops_controller.build.evaluation.operators import ModelCost, OperatorCost
from dsops_controller.build.evaluation.parity import Parity
from dsops_controller.build.reports.report import Report, VariantReport

HOSTILE = "</title><script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def difference(output: str = "scores", largest: float = 0.1) -> Difference:
    return Difference(output, largest, largest / 10, largest, 0.99, 30.0)


def cost(size_bytes: int) -> ModelCost:
    convolution = OperatorCost(0, "CONV_2D", "t0", (1, 8, 8, 4), 9216, 160, 1024)
    return ModelCost(size_bytes, (convolution, OperatorCost(1, "SOFTMAX", "scores", (1, 2), 0, 0, 16)))


def measured(median_us: float) -> Measured:
    edges = tuple(median_us * (0.5 + step / 4) for step in range(5))
    latency = Latency(1, 100, median_us / 2, median_us, median_us * 1.4, median_us * 1.5, edges, (10, 60, 20, 10))
    return Measured((latency,), Memory(30 << 20, 33 << 20), (median_us / 2, None))


def class_row(label: str, support: int, before: float, after: float) -> ClassRow:
    return ClassRow(label, support, ClassFigures(0.9, before, 0.9), ClassFigures(0.9, after, 0.9))


def slice_row(value: str, count: int, before: float, after: float) -> SliceRow:
    return SliceRow("lamp", value, count, Figure("accuracy", before, after))


def classification(labels: tuple[str, str] = ("cat", "dog"), slice_value: str = "low") -> Evaluation:
    """Accuracy 98 to 97 %, agreement 99 %; a class of 20 frames loses 5 points and one of 4 frames 25 points."""
    bins = (ReliabilityBin(0.8, 0.9, 20, 0.85, 0.8), ReliabilityBin(0.9, 1.0, 80, 0.97, 0.98))
    return Evaluation(
        task=Task.CLASSIFICATION,
        frames=100,
        has_truth=True,
        figures=(
            Figure("accuracy", 0.98, 0.97),
            Figure("f1_macro", 0.97, 0.96),
            Figure("auc", 0.999, 0.99),
            Figure("ece", 0.01, 0.02, "lower"),
        ),
        agreement=0.99,
        differences=(difference(), difference("features", 0.4)),
        classes=(class_row(labels[0], 20, 1.0, 0.95), class_row(labels[1], 4, 1.0, 0.75)),
        confusion=Confusion(((20, 0), (0, 4)), ((19, 1), (1, 3))),
        reliability=Reliability(bins, bins),
        slices=(slice_row(slice_value, 60, 0.98, 0.95), slice_row("high", 3, 1.0, 0.5)),
        before=cost(28_000),
        after=cost(10_000),
        measured_before=measured(8.0),
        measured_after=measured(6.0),
    )


def regression(before: float = 10.0, after: float = 10.4) -> Evaluation:
    """A regression without classes, slices or anything measured."""
    return Evaluation(
        task=Task.REGRESSION,
        frames=50,
        has_truth=True,
        figures=(Figure("mae", before, after, "lower"),),
        agreement=None,
        differences=(difference("y"),),
        classes=(),
        confusion=None,
        reliability=None,
        slices=(),
        before=cost(4000),
        after=cost(2000),
    )


def parity(relative: float = 1e-6) -> Parity:
    return Parity(32, (Difference("scores", relative, relative, relative, 1.0, 120.0),))


def report(*evaluations: Evaluation, verdicts: tuple[Verdict, ...] = (), **changes: str) -> Report:
    """Return a report of variants ``v0``, ``v1``, ..."""
    given = {"model": "digits", "description": "Handwritten digits", "source": "model.onnx", **changes}
    return Report(
        model=given["model"],
        description=given["description"],
        task=evaluations[0].task,
        source=given["source"],
        lineage=Lineage(source_sha256="ab" * 32, commit="3f2c1e0", facts={"camera": given.get("fact", "hall 3")}),
        parity=parity(),
        variants=tuple(
            VariantReport(f"v{number}", "int8", (given.get("note", "SOFTMAX stays float"),), one, verdicts)
            for number, one in enumerate(evaluations)
        ),
    )
