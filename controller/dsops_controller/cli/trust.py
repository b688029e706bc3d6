"""``dsops trust``: who may decide what runs. Signing events are folders of plain files; signing needs no network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsops.clock import SystemClock
from dsops.errors import InvalidInput
from dsops_controller.cli import output, session, trust_doctor, trust_event, trust_key, trust_quickstart
from dsops_controller.cli.trust_place import (
    Keys,
    Place,
    Purpose,
    ServerFolder,
    begin,
    check_target,
    finish,
    tell,
    write,
)

if TYPE_CHECKING:
    from dsops_controller.trust.drafts import Group

app = typer.Typer(help="Hold key ceremonies; see what keys can do.", no_args_is_help=True)
app.add_typer(trust_key.app, name="key")
app.command("quickstart")(trust_quickstart.quickstart)
app.command("doctor")(trust_doctor.doctor)
app.command("show")(trust_event.show)
app.command("sign")(trust_event.sign)
app.command("status")(trust_event.status)
app.command("publish")(trust_event.publish)

Event = Annotated[Path, typer.Argument(metavar="EVENT", help="folder to make for the signing event")]
PublicKeys = list[Path] | None
_ONLINE = ("snapshot", "timestamp", "director")


@app.command()
def init(
    event: Event,
    root: Annotated[list[Path], typer.Option("--root", help="public key of a root holder; repeatable")],
    threshold: Annotated[int | None, typer.Option("--threshold", min=1, max=9, help="of them must sign [2]")] = None,
    targets: Annotated[PublicKeys, typer.Option("--targets", help="of who names model owners [root's]")] = None,
    targets_threshold: Annotated[
        int | None, typer.Option("--targets-threshold", min=1, max=9, help="of them must sign [2]")
    ] = None,
    policy_key: Annotated[PublicKeys, typer.Option("--policy-key", help="of a release manager [targets']")] = None,
    policy_threshold: Annotated[
        int | None, typer.Option("--policy-threshold", min=1, max=9, help="of them must sign [2]")
    ] = None,
    fleet_key: Annotated[PublicKeys, typer.Option("--fleet-key", help="of who names directors [targets']")] = None,
    fleet_threshold: Annotated[
        int | None, typer.Option("--fleet-threshold", min=1, max=9, help="of them must sign [2]")
    ] = None,
    server: Annotated[Path | None, typer.Option("--server", help="the server's state folder")] = None,
    online: Annotated[Path | None, typer.Option("--online", help="its keys/online.json, where it is far away")] = None,
    fleet: Annotated[str | None, typer.Option("--fleet", help="name of the fleet, with --online")] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Prepare the first ceremony of a fleet: who signs root, targets, policy and fleet, and how many of them.

    Example: dsops trust init 2026-11-27-init --root alice.pub --root bob.pub --root carol.pub --server state

    By default two of them must sign, or the only one there is.
    """
    holders = session.optional("dsops_controller.trust.holders", "controller")
    drafts = session.optional("dsops_controller.trust.drafts", "controller")

    def group(wanted: int | None, *files: PublicKeys) -> "Group":
        """Return the first keys that are given, and how many of them must sign."""
        first = next(found for found in files if found)
        made: Group = drafts.Group([holders.read_public(file) for file in first], wanted or min(2, len(first)))
        return made

    name, keys = _server(server, online, fleet)
    people = {
        "root": group(threshold, root),
        "targets": group(targets_threshold or (None if targets else threshold), targets, root),
        "policy": group(policy_threshold, policy_key, targets, root),
        "fleet": group(fleet_threshold, fleet_key, targets, root),
    }
    edit = drafts.Edit(None, SystemClock().now())
    drafts.found(edit, name, keys, people)
    made = edit.event("init", f"Found fleet {name}", name)
    write(event, made)
    tell(made, event, form)


@app.command()
def rotate(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE... [EVENT]",
            help="timestamp, snapshot, director (the server's), root, targets, policy, fleet, model-NAME; then the "
            "folder to make for the signing event",
        ),
    ],
    remove: Annotated[list[str] | None, typer.Option("--remove", help="holder that leaves; repeatable")] = None,
    add: Annotated[list[Path] | None, typer.Option("--add", help="public key that joins; repeatable")] = None,
    threshold: Annotated[int | None, typer.Option("--threshold", min=1, max=9, help="how many must sign")] = None,
    keys: Keys = None,
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Replace keys: those of the server after a theft, or the people behind a role.

    Example: dsops trust rotate timestamp snapshot director 2026-11-27-theft --server state

    Example: dsops trust rotate root 2026-11-27-root --remove alice --add dave.pub --server state

    The server makes its new keys itself and works with the old ones until the event is published.
    """
    names, to = _roles_and_event(roles, keys)
    check_target(to, keys)
    drafts = session.optional("dsops_controller.trust.drafts", "controller")
    holders = session.optional("dsops_controller.trust.holders", "controller")
    place = Place(server, context)
    edit = begin(place)
    people = [name for name in names if name not in _ONLINE]
    if not people and (remove or add or threshold):
        raise InvalidInput("--remove, --add and --threshold are of a role that people sign", why=", ".join(names))
    joining = [holders.read_public(file) for file in add or ()]
    for name in people:
        drafts.replace_people(edit, name, joining, remove or (), threshold)
    for name in names:
        if name in _ONLINE:
            drafts.replace_online(edit, name, place.new_key(name))
    event = finish(edit, Purpose("rotate", f"Other keys for {', '.join(names)}"), to, keys, place)
    tell(event, to, form)


@app.command()
def renew(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE... [EVENT]",
            help="root, targets, fleet, policy, model-NAME; then the folder to make for the signing event",
        ),
    ],
    keys: Keys = None,
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Sign roles again before they expire (root, targets: 365 days; fleet, model-NAME: 180; policy: 90).

    Example: dsops trust renew fleet policy 2026-11-27-renew --server state
    """
    names, to = _roles_and_event(roles, keys)
    check_target(to, keys)
    drafts = session.optional("dsops_controller.trust.drafts", "controller")
    place = Place(server, context)
    edit = begin(place)
    drafts.renew(edit, names)
    tell(finish(edit, Purpose("renew", f"Renew {', '.join(names)}"), to, keys, place), to, form)


def _roles_and_event(words: list[str], keys: Path | None) -> tuple[list[str], Path | None]:
    """Tell the roles from the folder that follows them; with keys there is none."""
    if keys is not None:
        return words, None
    if len(words) < 2:
        hint = f"for example: dsops trust renew {words[0]} 2026-11-27-renew"
        raise InvalidInput("name the roles, then a folder for the signing event", hint=hint)
    return words[:-1], Path(words[-1])


def _server(server: Path | None, online: Path | None, fleet: str | None) -> tuple[str, Any]:
    """Return the fleet's name and the server's public keys."""
    keys = session.optional("dsops_controller.trust.keys", "controller")
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    if (server is None) == (online is None):
        raise InvalidInput("say which server it is", hint="--server FOLDER, or --online FILE with --fleet NAME")
    if server is not None:
        return ceremony.fleet_name(server, fleet), keys.OnlinePublic.read(server / "keys")
    if fleet is None:
        raise InvalidInput("a fleet needs a name", hint="--fleet NAME, as in the server's controller.toml")
    return fleet, keys.OnlinePublic.read(online)
