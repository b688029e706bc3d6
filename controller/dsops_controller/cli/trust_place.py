"""Where trust metadata is published: the folder of a server on this machine, or a running server over REST."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsops.clock import SystemClock
from dsops.errors import InvalidInput
from dsops_controller.cli import output, session

if TYPE_CHECKING:
    from dsops_controller.trust.drafts import Edit
    from dsops_controller.trust.events import Event
    from dsops_controller.trust.published import Published

ServerFolder = Annotated[
    Path | None, typer.Option("--server", help="the server's state folder; else the running server of --context")
]
Keys = Annotated[
    Path | None, typer.Option("--keys", help="folder with every key that is needed: sign and publish at once")
]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A server: its folder if it is on this machine, else its context file."""

    server: Path | None
    context: Path

    def published(self) -> "Published":
        """Return everything that is published.

        Raises:
            NotFound: Nothing is.
        """
        module = session.optional("dsops_controller.trust.published", "controller")
        if self.server is not None:
            here: Published = module.Published.read(self.server / "trust")
            return here
        with session.connected(self.context) as client:
            found: Published = module.Published.of(module.Documents.model_validate(client.published()))
        return found

    def new_key(self, role: str) -> str:
        """Have the server make its next key for a role of its own; return the public half."""
        if self.server is not None:
            keys = session.optional("dsops_controller.trust.keys", "controller")
            public: str = keys.OnlineKeys.load(self.server / "keys").prepare(role)
            return public
        with session.connected(self.context) as client:
            return client.new_online_key(role)

    def submit(self, event: "Event") -> Rows:
        """Publish an event that has its signatures."""
        if self.server is not None:
            ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
            done = ceremony.open_repository(self.server).submit(list(event.documents.values()), event.small)
            return [{"role": role.role, "version": role.version} for role in done]
        module = session.optional("dsops_controller.trust.published", "controller")
        with session.connected(self.context) as client:
            return client.publish_trust(module.Documents.of(event.documents, event.small).model_dump())


@dataclass(frozen=True)
class Purpose:
    """What an edit is for: its kind, and a title for people."""

    kind: str
    title: str


def begin(place: Place) -> "Edit":
    """Return an edit on top of what is published."""
    drafts = session.optional("dsops_controller.trust.drafts", "controller")
    edit: Edit = drafts.Edit(place.published(), SystemClock().now())
    return edit


def finish(edit: "Edit", purpose: Purpose, to: Path | None, keys: Path | None, place: Place) -> "Event":
    """Write an edit as a signing event, or with a folder of keys sign and publish it at once.

    Raises:
        InvalidInput: Neither a folder for the event nor keys are given, or both.
    """
    event = edit.event(purpose.kind, purpose.title, _fleet(edit))
    if keys is not None:
        ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
        place.submit(ceremony.signed_by_all(event, keys))
    else:
        assert to is not None
        write(to, event)
    return event


def check_target(to: Path | None, keys: Path | None) -> None:
    """Check that a command was told either where the event goes, or with which keys to sign it at once.

    Raises:
        InvalidInput: It was not.
    """
    if (to is None) == (keys is None):
        raise InvalidInput("name a folder for the signing event, or give --keys", hint="for example: 2026-11-27-policy")


def write(to: Path, event: "Event") -> None:
    """Write an event's folder, with its checklist."""
    events = session.optional("dsops_controller.trust.events", "controller")
    checklist = session.optional("dsops_controller.trust.checklist", "controller")
    events.write(to, event, checklist.checklist(event, event.info.created))


def tell(event: "Event", to: Path | None, form: output.Format) -> None:
    """Say what was made, and what comes next."""
    roles = {name: role.version for name, role in event.roles.items()}
    if to is None:
        sentence = f"{event.info.title}: published {', '.join(f'{name} {version}' for name, version in roles.items())}"
    else:
        sentence = (
            f"made {to}: {event.info.title}\n"
            f"next, each holder: dsops trust sign {to} --key URI\n"
            f"      then: dsops trust publish {to}"
        )
    output.done({"event": str(to) if to else None, "title": event.info.title, "roles": roles}, sentence, form)


def _fleet(edit: "Edit") -> str:
    assert edit.base is not None
    return edit.base.director().fleet
