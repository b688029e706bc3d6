"""What people see of two bundles' differences."""

from collections.abc import Mapping
from typing import Any

from dsops_controller.cli import output
from dsops_controller.cli.bundle_show import section, shortened, table, title

_ROWS_SHOWN = 40
_CHANGES = {"where": "WHAT", "before": "BEFORE", "after": "AFTER"}


def show(facts: Mapping[str, Any], form: output.Format) -> None:
    """Print a comparison (see :class:`dsops_controller.build.bundles.compare.Comparison`) with its files' names."""
    if form is output.Format.JSON:
        output.print_json(facts)
        return
    output.out.print(f"{facts['before']} -> {facts['after']}", style="bold", markup=False)
    if facts["equal"]:
        output.out.print("the same bytes", markup=False)
        return
    _table("MANIFEST", facts["fields"], _CHANGES)
    _table("METRICS", facts["metrics"], _CHANGES | {"difference": "DIFFERENCE"})
    section("LABELS", {key: _label_text(value) for key, value in facts["labels"].items() if value})
    _table("OPERATORS", facts["operators"], _CHANGES)
    _print_weights(facts["weights"])
    _print_profile(facts["profile"])
    section("GOLDEN INPUTS", facts["golden"])
    blobs = [row | {"after": _blob_text(row)} for row in facts["blobs"]]
    _table("BLOBS (bytes)", blobs, _CHANGES | {"where": "NAME"})
    _print_update(facts["update"])


def _table(name: str, rows: list[dict[str, Any]], columns: Mapping[str, str]) -> None:
    """Print a section's first rows, and how many more there are; JSON has all of them."""
    table(f"{name} ({len(rows)})", rows[:_ROWS_SHOWN], columns)
    if len(rows) > _ROWS_SHOWN:
        output.out.print(f"... and {len(rows) - _ROWS_SHOWN} more (-o json)", markup=False)


def _label_text(value: object) -> object:
    return shortened(value) if isinstance(value, list) else value


def _blob_text(row: Mapping[str, Any]) -> object:
    return f"{row['after']} (other content)" if row["before"] == row["after"] else row["after"]


def _print_weights(weights: list[dict[str, Any]]) -> None:
    rows = [
        {
            "name": weight["name"],
            "what": f"{weight['kind']} {weight['dtype']}",
            "values": f"{weight['changed']} of {weight['elements']}",
            "largest": weight["largest_difference"],
        }
        for weight in weights
    ]
    columns = {"name": "TENSOR", "what": "WHAT", "values": "VALUES", "largest": "LARGEST DIFFERENCE"}
    _table("WEIGHTS", rows, columns)


def _print_profile(signals: list[dict[str, Any]]) -> None:
    rows = [row | {"note": row["note"] or ("other bins" if row["rebinned"] else "")} for row in signals]
    changed = [row for row in rows if row["note"] or row["total_variation"]]
    columns = {"name": "SIGNAL", "total_variation": "DISTANCE", "stability_index": "STABILITY", "note": "NOTE"}
    _table("PROFILE", changed, columns)


def _print_update(update: Mapping[str, int]) -> None:
    title("UPDATE OVER THE AIR")
    length = update["length_bytes"]
    shared = (
        f"{update['shared_chunks']} of {update['chunks']} chunks of {update['chunk_bytes']} bytes are there already"
    )
    offered = update["delta_offered"]
    delta = "fetched as a delta" if offered else "a delta would have; it saves too little to be offered"
    rows = [
        {"bytes": length, "share": "", "what": "the whole bundle"},
        {"bytes": update["fetch_bytes"], "share": _share(update["fetch_bytes"], length), "what": f"fetched: {shared}"},
        {"bytes": update["delta_bytes"], "share": _share(update["delta_bytes"], length), "what": delta},
    ]
    output.rows(rows, {"bytes": "BYTES", "share": "SHARE", "what": ""}, output.Format.TABLE)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"
