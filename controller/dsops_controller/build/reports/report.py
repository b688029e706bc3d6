"""The report of a build: one document for the model and all its variants.

``report.json`` is strict JSON with these members:

    format          1
    model, description, task, source, lineage
    passed          whether every variant passes its gate
    parity          float TFLite against the ONNX source: frames, largest_relative, outputs; null for a TFLite source
    float           size_bytes, macs, operators of the float model
    variants        for each: name, mode, notes, passed, gate (key, limit, figure, passed, where, is_default), frames,
                    has_truth, metrics (by name: float, variant, drop, better), agreement, output_differences, classes,
                    confusion, reliability, slices, variant (size_bytes, macs, operators)
    measured_here   what depends on the machine and the moment: machine, float, variants (by name: latencies, memory,
                    operator_us, and the gate's keys about latency)

All but ``measured_here`` and what follows from it in ``passed`` is the same wherever the same inputs are built.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dsops import strictjson
from dsops.manifest import Lineage, Task
from dsops_controller.build.evaluation.evaluation import Evaluation
from dsops_controller.build.evaluation.gate import Verdict
from dsops_controller.build.evaluation.measure_model import describe_machine
from dsops_controller.build.evaluation.parity import Parity

FORMAT = 1
_MEASURED_KEYS = ("max_latency_ms",)


@dataclass(frozen=True)
class VariantReport:
    """One variant: how it was made, what the comparison found, and what the gate says of it."""

    name: str
    mode: str
    notes: tuple[str, ...]
    evaluation: Evaluation
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether it passes its gate."""
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True)
class Report:
    """A build: the model, where it comes from, and at least one variant."""

    model: str
    description: str
    task: Task
    source: str
    lineage: Lineage
    parity: Parity | None
    variants: tuple[VariantReport, ...]
    machine: dict[str, str] = field(default_factory=describe_machine)

    @property
    def passed(self) -> bool:
        """Whether every variant passes its gate."""
        return all(variant.passed for variant in self.variants)


def encode_report(report: Report) -> bytes:
    """Return the report as canonical JSON."""
    return strictjson.dumps(report_as_dict(report))


def report_as_dict(report: Report) -> dict[str, Any]:
    """Return the report's JSON form; see the module's text."""
    first = report.variants[0].evaluation
    return {
        "format": FORMAT,
        "model": report.model,
        "description": report.description,
        "task": str(report.task),
        "source": report.source,
        "lineage": report.lineage.model_dump(mode="json"),
        "passed": report.passed,
        "parity": None if report.parity is None else report.parity.as_dict(),
        "float": first.before.as_dict(),
        "variants": [_variant(variant) for variant in report.variants],
        "measured_here": {
            "machine": report.machine,
            "float": None if first.measured_before is None else first.measured_before.as_dict(),
            "variants": {variant.name: _measured(variant) for variant in report.variants},
        },
    }


def _variant(variant: VariantReport) -> dict[str, Any]:
    found = variant.evaluation.as_dict()
    del found["float"], found["task"]
    return {
        "name": variant.name,
        "mode": variant.mode,
        "notes": list(variant.notes),
        "passed": variant.passed,
        "gate": _verdicts(variant.verdicts, measured=False),
        **found,
    }


def _measured(variant: VariantReport) -> dict[str, Any]:
    measured = variant.evaluation.measured_after
    figures = {} if measured is None else measured.as_dict()
    return {**figures, "gate": _verdicts(variant.verdicts, measured=True)}


def _verdicts(verdicts: Sequence[Verdict], *, measured: bool) -> list[dict[str, Any]]:
    return [verdict.as_dict() for verdict in verdicts if (verdict.key in _MEASURED_KEYS) == measured]
