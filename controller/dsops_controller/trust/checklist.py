"""CHECKLIST.md of a signing event: what people must do, in the order in which they do it. Pure."""

from datetime import datetime

from dsops_controller.trust.diff import Change, changes
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import holder_of, spoken
from dsops_controller.trust.status import Need, needs


def checklist(event: Event, now: datetime) -> str:
    """Return the text, in Markdown."""
    wanted = needs(event)
    parts = [
        f"# {event.info.title}",
        f"A signing event of fleet {event.info.fleet}, made {event.info.created:%Y-%m-%d %H:%M} UTC.",
        "## Who signs\n\n" + "\n".join(map(_need, wanted)),
        "## What changes\n\n" + "\n\n".join(map(_change, changes(event, now))),
        "## What each holder does\n\n" + _steps(event),
    ]
    return "\n\n".join(parts) + "\n"


def _need(need: Need) -> str:
    name = f"{need.role} ({need.by})" if need.by else need.role
    return f"- **{name}**: {need.threshold} of {', '.join((*need.signed, *need.missing))}"


def _change(change: Change) -> str:
    lines = "\n".join(f"- {line.strip()}" for line in change.lines)
    return f"### {change.role} {change.after}\n\n{lines}\n\nsha256, read aloud: `{spoken(change.digest)}`"


def _steps(event: Event) -> str:
    holders = sorted({holder_of(key) for name in event.roles for key in event.keys(name).values()})
    boxes = "\n".join(f"- [ ] {holder}" for holder in holders)
    return (
        "1. Copy this folder to the machine that can use your key; it needs no network.\n"
        "2. `dsops trust show FOLDER`: read what changes. Compare each sha256 with another holder by voice.\n"
        "3. `dsops trust sign FOLDER --key URI`, for example `file:alice.pem` or `hsm:2?label=alice`. Who signed\n"
        "   nothing of this fleet before adds `--known-root 1.root.json`, a root that they had from elsewhere.\n"
        "4. Hand the folder on; `dsops trust status FOLDER` says who is missing. Any order will do.\n"
        "5. When it is complete: `dsops trust publish FOLDER`, with `--server FOLDER` or `--context FILE`.\n\n"
        f"{boxes}"
    )
