"""``dsops trust doctor``: what expires when, and what a thief of each key could do."""

from typing import TYPE_CHECKING, Any

import typer

from dsops.clock import SystemClock
from dsops_controller.cli import output, session
from dsops_controller.cli.trust_place import Place, ServerFolder

if TYPE_CHECKING:
    from dsops_controller.trust.doctor import Report

DUE = 1


def doctor(
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show what expires when and who must act, who signs what, and what a thief of each key could do.

    Example: dsops trust doctor --server state

    Ends with exit code 1 when a role is due to be signed again.
    """
    module = session.optional("dsops_controller.trust.doctor", "controller")
    report: Report = module.examine(Place(server, context).published(), SystemClock().now())
    if form is output.Format.JSON:
        output.print_json(as_json(report))
    else:
        _print(report)
    if report.is_due:
        raise typer.Exit(DUE)


def as_json(report: "Report") -> dict[str, Any]:
    """Return a report for programs."""
    return {
        "due": [day.role for day in report.calendar if day.is_due],
        "calendar": [
            {"role": d.role, "expires": d.expires, "days_left": d.days_left, "due": d.is_due, "who": d.who}
            for d in report.calendar
        ],
        "signers": [{"role": s.role, "threshold": s.threshold, "keys": sorted(s.keys)} for s in report.signers],
        "thefts": [{"keys": list(t.keys), "roles": list(t.roles), "lines": list(t.lines)} for t in report.thefts],
        "warnings": list(report.warnings),
    }


def _print(report: "Report") -> None:
    rows = [
        {"role": d.role, "expires": f"{d.expires:%Y-%m-%d}", "left": _left(d.days_left, is_due=d.is_due), "who": d.who}
        for d in report.calendar
    ]
    output.rows(
        rows, {"role": "ROLE", "expires": "EXPIRES", "left": "DAYS LEFT", "who": "SIGNED BY"}, output.Format.TABLE
    )
    _part("Whoever steals the key of")
    for theft in report.thefts:
        for line in theft.lines:
            output.out.print(f"  {', '.join(theft.keys)}: {line}", markup=False)
    if report.warnings:
        _part("Weak")
        for warning in report.warnings:
            output.out.print(f"  {warning}", markup=False)


def _left(days: int, *, is_due: bool) -> str:
    return f"{days} DUE" if is_due else str(days)


def _part(title: str) -> None:
    output.out.print(f"\n{title}", style="bold", markup=False)
