"""What ``dsops model build`` prints, and the summary in Markdown for the page of a build service."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsops_controller.cli import output

REPORT, PAGE = "report.json", "report.html"
"""What a build leaves in its folder."""
_GATE = ("variant", "gate", "found", "allowed", "")
_RESULTS = {True: "pass", False: "**FAIL**"}


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return a report's summary: metrics and gate of every variant (:mod:`dsops_controller.build.reports.report`)."""
    verdict = "passes its gate" if report["passed"] else "does not pass its gate"
    parts = [f"## {_clean(report['model'])} {verdict}", *_metrics(report), *_gates(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a report without its long tables."""
    keys = ("name", "mode", "passed", "metrics", "agreement", "notes")
    here = report["measured_here"]["variants"]
    variants = [
        {key: variant[key] for key in keys}
        | {
            "size_bytes": variant["variant"]["size_bytes"],
            "gate": [*variant["gate"], *here[variant["name"]]["gate"]],
        }
        for variant in report["variants"]
    ]
    return {
        "model": report["model"],
        "task": report["task"],
        "passed": report["passed"],
        "float_bytes": report["float"]["size_bytes"],
        "variants": variants,
    }


def _metrics(report: Mapping[str, Any]) -> Iterator[str]:
    before = report["variants"][0]["metrics"]
    names = list(before)
    rows = [("float", *(output.text(before[name]["float"]) for name in names), "", _size(report["float"]))]
    for variant in report["variants"]:
        found = variant["metrics"]
        values = (output.text(found[name]["variant"]) if name in found else "-" for name in names)
        rows.append((variant["name"], *values, output.text(variant["agreement"]), _size(variant["variant"])))
    yield _table(("", *names, "agreement", "bytes"), rows)


def _gates(report: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for variant in summary(report)["variants"]:
        for verdict in variant["gate"]:
            sign = ">=" if verdict["key"].startswith("min_") else "<="
            where = f" ({verdict['where']})" if verdict["where"] else ""
            allowed = f"{sign} {output.text(verdict['limit'])}"
            found = output.text(verdict["figure"])
            rows.append((variant["name"], verdict["key"] + where, found, allowed, _RESULTS[verdict["passed"]]))
    yield _table(_GATE, rows)


def _size(model: Mapping[str, Any]) -> str:
    return str(model["size_bytes"])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(_clean(cell) for cell in line)} |" for line in lines)


def _clean(cell: str) -> str:
    """Return a text that stays in its cell: names in a report come from files."""
    return "".join(f"\\{letter}" if letter in "\\|<>[]`" else letter for letter in output.text(cell) if cell)
