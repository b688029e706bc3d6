"""``dsops challenger``: compare a second bundle with the one that devices run, and let it take over."""

from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops_controller.cli import output, rollout, session

app = typer.Typer(help="Compare a release with the one that devices run.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="model")]
Devices = Annotated[list[str] | None, typer.Option("--device", "-d", help="only these devices; repeat")]


@app.command("set")
def set_(
    bundle: Annotated[str, typer.Argument(help="MODEL/RELEASE, or MODEL/RELEASE/VARIANT")],
    device: Devices = None,
    shadow: Annotated[
        float | None, typer.Option("--shadow", help="percent of the requests that are copied to it")
    ] = None,
    split: Annotated[float | None, typer.Option("--split", help="percent of the keys that it answers")] = None,
    cpu: Annotated[float, typer.Option("--cpu", help="percent of one core that a shadow may take")] = 25.0,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Give devices a challenger beside what they run, in place of the one before.

    Example: dsops challenger set digits/3 --shadow 20

    In the shadow it gets copies of requests, and nobody gets its answers. With --split it answers the requests of some
    keys: the parameter "key" of a request, else its id. A device on which it fails drops it and goes on as before.
    """
    model, release, variant = rollout.bundle_named(bundle)
    percent = split if shadow is None else shadow
    if (shadow is None) == (split is None) or percent is None:
        raise InvalidInput("a challenger is a shadow or takes part in a split", hint="give --shadow 20 or --split 10")
    challenge = {
        "model": model,
        "release": release,
        "variant": variant,
        "cohort": device or [],
        "mode": "shadow" if split is None else "split",
        "share": _share("--shadow" if split is None else "--split", percent),
        "cpu_share": _share("--cpu", cpu),
    }
    with session.connected(context) as client:
        made = client.set_challenger(challenge)
    _print(made, form)
    output.say(f"look with: dsops challenger show {model}")


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(help="model; without one, all")] = None,
    minutes: Annotated[int | None, typer.Option("--minutes", min=1, help="compare the newest minutes only")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show which devices have a challenger, and how it compares with the champion.

    DISAGREE is the share of compared frames for which both chose differently, DISTANCE the mean distance of their
    answers (0: the same, 1: as far as can be); times are medians in the interpreter.
    """
    with session.connected(context) as client:
        there, compared = client.challengers(model), client.comparisons(model=model, minutes=minutes)
    if form is output.Format.JSON:
        output.print_json({"challengers": there, "comparisons": compared})
        return
    _print(there, form)
    if compared:
        output.rows([_shown(row) for row in compared], _COMPARED, form)


@app.command()
def clear(
    model: Model,
    device: Devices = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Take a model's challenger from its devices; they remove it, and run what they run."""
    with session.connected(context) as client:
        done = client.clear_challenger(model, device or [])
    output.done(done, f"{model}: no challenger any more on {done['devices']} devices", form)


@app.command()
def promote(
    model: Model,
    wave: Annotated[
        list[str] | None,
        typer.Option("--wave", "-w", help="a wave: 1 (devices), 10% (of the cohort), or names a,b; repeat in order"),
    ] = None,
    max_failures: Annotated[int, typer.Option("--max-failures", min=0, help="failures that do not stop it")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="follow it; the exit code is its result")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a model's challenger the champion of the devices that have it, by a rollout in waves.

    Example: dsops challenger promote digits --wave 1 --wait
    """
    promotion = {"waves": [rollout.wave_named(text) for text in wave or ["1"]], "max_failures": max_failures}
    with session.connected(context) as client:
        made = client.promote_challenger(model, promotion)
        if wait:
            rollout.follow(client, made["id"], None, form)
            return
    output.done(made, f"{made['id']} brings {model}/{made['release']}", form)
    output.say(f"watch with: dsops rollout status {made['id']} --wait")


_COMPARED = {
    "device": "DEVICE",
    "model": "MODEL",
    "releases": "CHAMPION/CHALLENGER",
    "mode": "MODE",
    "compared": "COMPARED",
    "disagree": "DISAGREE",
    "distance": "DISTANCE",
    "times": "US",
    "confidences": "CONFIDENCE",
    "answered": "ANSWERED",
    "fallbacks": "FALL-BACKS",
    "lost": "SKIPPED/FAILED",
    "reason": "REASON",
}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    compared = row["compared"]
    return row | {
        "releases": f"{row['release']}/{row['challenger_release']}",
        "disagree": f"{row['disagreed'] / compared:.2%}" if compared else "-",
        "distance": _number(row["distance"], ".4f"),
        "times": f"{_number(row['p50_us'], '.0f')}/{_number(row['challenger_p50_us'], '.0f')}",
        "confidences": f"{_number(row['confidence'], '.3f')}/{_number(row['challenger_confidence'], '.3f')}",
        "lost": f"{row['skipped']}/{row['failed']}",
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print(rows: list[dict[str, Any]], form: output.Format) -> None:
    columns = {
        "device": "DEVICE",
        "model": "MODEL",
        "champion_release": "CHAMPION",
        "release": "CHALLENGER",
        "mode": "MODE",
        "share": "SHARE",
        "install": "INSTALL",
        "active": "COMPARED",
        "code": "CODE",
    }
    output.rows(rows, columns, form)


def _share(option: str, percent: float) -> float:
    if not 0 < percent <= 100:
        raise InvalidInput(f"{option} {percent:g} is no share", why="it is more than 0 and at most 100 percent")
    return percent / 100
