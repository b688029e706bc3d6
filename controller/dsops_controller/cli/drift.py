"""``dsops drift``: how far devices see something else than the model was built for."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops.files import write_atomically
from dsops_controller.cli import drift_pages, output, periods, session

app = typer.Typer(help="Look at drift.", no_args_is_help=True)

Fdr = Annotated[float, typer.Option("--fdr", min=0.0001, max=0.5, help="share of named devices that may be wrong")]
_PAGES = {".md": drift_pages.markdown, ".html": drift_pages.html}
_COLUMNS = {
    "device": "DEVICE", "model": "MODEL", "release": "RELEASE", "level": "LEVEL", "score": "SCORE",
    "frames": "FRAMES", "because": "BECAUSE", "since": "SINCE", "heard": "HEARD",
}  # fmt: skip


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(help="only this model")] = None,
    device: Annotated[str | None, typer.Option("--device", help="explain this device")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show the drift of each device: level, score, frames (until it alarmed, if so), the signals; or explain one.

    Example: dsops drift show digits --device cam-3

    Of one device it says since when, what changed against the profile (classes, features or ranges), the p-values, what
    the check of the first frames found, and the ids of samples that it kept since.
    """
    if device is not None:
        with session.connected(context) as client:
            found = client.drift_of(device, model)
        if form is output.Format.JSON:
            output.print_json(found)
        for one in found if form is output.Format.TABLE else ():
            _explain(one)
        return
    with session.connected(context) as client:
        rows = client.drift(model)
    for row in rows:
        row["since"] = output.when(row.get("since_ms"))
        signals = sorted((row.get("signals") or {}).items(), key=lambda item: -item[1])
        row["because"] = [name for name, value in signals[:3] if value > 0]
    output.rows(rows, _COLUMNS, form)


@app.command()
def top(
    model: Annotated[str | None, typer.Option("--model", help="only this model")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="so many devices")] = 20,
    fdr: Fdr = 0.05,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show what drifted most: each model with the devices that have drifted, then the worst devices.

    Example: dsops drift top --model digits

    The list of drifted devices is corrected for their number (e-BH): of those that it names a share of --fdr at most is
    wrong, however many devices there are and however they depend on each other. Devices whose drift was not heard of
    for a week are STALE, and in no other number; the time beside each device says when it was.
    """
    with session.connected(context) as client:
        found = client.drift_top(model=model, limit=limit, fdr=fdr)
    if form is output.Format.JSON:
        output.print_json(found)
        return
    models = [row | {"share": f"{row['share']:.1%}", "named": _few(row["drifted"])} for row in found["models"]]
    columns = {
        "model": "MODEL", "devices": "DEVICES", "states.drift": "DRIFT", "states.warning": "WARNING", "states.ok": "OK",
        "stale": "STALE", "skewed": "SKEWED", "share": "DRIFTED", "named": "DRIFTED DEVICES",
    }  # fmt: skip
    output.rows(models, columns, form)
    if found["devices"]:
        output.out.print()
        rows = [row | {"because": _because(row)} for row in found["devices"]]
        output.rows(rows, _COLUMNS | {"log_e": "LOG E", "skew.state": "SKEW"}, form)


@app.command()
def report(
    model: Annotated[str, typer.Argument(help="model")],
    since: Annotated[str, typer.Option("--since", help="from this time on, or so long ago")] = "1d",
    until: Annotated[str | None, typer.Option("--until", help="before this time; now by default")] = None,
    fdr: Fdr = 0.05,
    file: Annotated[Path | None, typer.Option("--file", help="write it: .md, .html or .json")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Report a model over the fleet for a period: the devices' histograms added up against the profile.

    Example: dsops drift report digits --since 7d --file drift.html

    For each bundle: devices by state, and for each signal a chi-square test of the merged histogram whose variance
    takes in the noise that devices add for privacy and how much consecutive frames resemble each other.
    """
    if file is not None:
        _check_page(file)
    with session.connected(context) as client:
        found = client.drift_report(model, since=periods.moment(since), until=periods.moment(until), fdr=fdr)
    if file is not None:
        page = _PAGES.get(file.suffix.lower())
        write_atomically(file, (page(found) if page else json.dumps(found, indent=2) + "\n").encode())
        output.say(f"{file}: drift of {model}, {len(found['bundles'])} bundles")
    elif form is output.Format.JSON:
        output.print_json(found)
    else:
        output.out.print(drift_pages.markdown(found), markup=False, end="")


def _check_page(file: Path) -> None:
    if file.suffix.lower() not in {*_PAGES, ".json"}:
        raise InvalidInput(f"{file} is of no known kind", hint="let its name end in .md, .html or .json")
    output.check_place(file)


def _explain(one: dict[str, Any]) -> None:
    facts = {
        "device": one["device"],
        "model": f"{one['model']} {one['release']} ({output.short(one['digest'])})",
        "level": one["level"],
        "since": one["since"],
        "seems to have begun": one["onset"],
        "device says": one["message"],
        "score": one["score"],
        "e-value (logarithm)": one["log_e"],
        "p-value": one["p_value"],
        "frames": one["frames"],
        "first frames": _skew(one["skew"]),
        "newest report": one["reported"],
        "heard of last": one["heard"],
        "samples": one["samples"],
    }
    output.facts(facts, output.Format.TABLE)
    rows = [row | {"what": drift_pages.told(row), "cusum": _cusum(one, row["signal"])} for row in one["changes"]]
    columns = {
        "signal": "SIGNAL", "cusum": "E-CUSUM", "statistic": "CHI2", "freedom": "DF", "p_value": "P",
        "frames": "FRAMES", "what": "WHAT CHANGED",
    }  # fmt: skip
    output.out.print()
    if rows:
        output.rows(rows, columns, output.Format.TABLE)
    elif one["why_no_test"]:
        output.say(f"no histograms: {one['why_no_test']}")


def _cusum(one: dict[str, Any], signal: str) -> float | None:
    found = one["signals"].get(signal)
    return found["cusum"] if found else None


def _skew(skew: dict[str, Any]) -> str:
    if skew["state"] == "pending":
        return f"{skew['frames']} looked at, not enough yet"
    if skew["state"] == "ok":
        return f"as the profile (p {skew['p_value']:.3g} over {skew['frames']} frames)"
    return f"skew: not as the profile (p {skew['p_value']:.3g}) in {', '.join(skew['signals'])}"


def _because(row: dict[str, Any]) -> list[str]:
    return [name for name, one in row["signals"].items() if one["cusum"] > 0][:3]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
