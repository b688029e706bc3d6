"""``dsops-agent``: runs the agent on a device and says how it does. Exit codes: :mod:`dsops.exits`."""

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import dsops
from dsops.clock import SystemClock
from dsops.errors import AwaitedFailure, DsopsError, MissingExtra
from dsops.exits import Exit, describe, exit_code
from dsops.messages import ChallengerState
from dsops_agent import logs
from dsops_agent.config import DEFAULT_PATH, load
from dsops_agent.feed.counts import FeedStatus
from dsops_agent.late import leave_out
from dsops_agent.status import Status, is_running, read_status
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

_CLOCK = {
    ClockState.BEHIND: "suspect: it is behind a moment that has certainly passed; set it, or let it be set (NTP)",
    ClockState.AHEAD: "suspect: everything that was ever signed seems to have expired; set it, or let it be set (NTP)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. An error of the tree is printed in three lines, without a traceback."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except DsopsError as error:
        if options.debug:
            logger.exception("the command failed")
        sys.stderr.write(describe(error) + "\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        return Exit.FAILED
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=f"default: {DEFAULT_PATH}")
    common.add_argument("--debug", action="store_true", help="log everything, and tracebacks of errors")
    shown = argparse.ArgumentParser(add_help=False)
    shown.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    parser = argparse.ArgumentParser(
        prog="dsops-agent", description="The dsops agent: keeps a device's models up to date."
    )
    parser.add_argument("--version", action="version", version=f"dsops-agent {dsops.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", parents=[common], help="run the agent until SIGTERM or SIGINT")
    run.set_defaults(command=_run)
    status = commands.add_parser("status", parents=[common, shown], help="show how the agent does")
    status.add_argument("--check", action="store_true", help="exit with 3 unless it is connected and can answer")
    status.set_defaults(command=_status)
    install = commands.add_parser(
        "install",
        parents=[common],
        help="install from a bundle file or from a kit, without a network; the agent must run",
    )
    install.add_argument("path", type=Path, metavar="PATH", help="bundle file, or folder of `dsops device kit`")
    install.set_defaults(command=_install)
    _add_feed(commands.add_parser("feed", parents=[common], help="ask a model about frames on standard input"))
    config = commands.add_parser("config", help="the configuration").add_subparsers(required=True, metavar="COMMAND")
    show = config.add_parser("show", parents=[common, shown], help="show every key: value, origin and meaning")
    show.set_defaults(command=_config_show)
    _add_quarantine(commands.add_parser("quarantine", help="bundles that are never tried again"), common, shown)
    _add_identity(commands.add_parser("identity", help="the device's key and certificate"), common, shown)
    _add_tuf_client(commands)
    return parser


def _add_feed(feed: argparse.ArgumentParser) -> None:
    feed.add_argument(
        "--stdin", required=True, metavar="MODEL", help="model; answers are lines of JSON on standard output"
    )
    feed.add_argument("--raw", default="", metavar="TYPE", help="values are raw, of this type; else lines of JSON")
    feed.add_argument("--scale", type=float, help="values are multiplied by it, and are real then")
    feed.add_argument(
        "--form", default="", choices=("raw", "real"), help="what values are (default: raw where the model takes them)"
    )
    feed.add_argument("--key", default="", help="key of all requests in a split (default: each is one by itself)")
    feed.add_argument("--show", action="append", default=[], metavar="NAME", help="output to show; else all")
    feed.set_defaults(command=_feed)


def _add_quarantine(
    quarantine: argparse.ArgumentParser, common: argparse.ArgumentParser, shown: argparse.ArgumentParser
) -> None:
    commands = quarantine.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[common, shown], help="show them, newest first, and why")
    listing.set_defaults(command=_quarantine_list)
    clear = commands.add_parser(
        "clear", parents=[common], help="let one be tried again, at once if it is still wanted; the agent may run"
    )
    clear.add_argument("digest", metavar="DIGEST", help="SHA-256 of the bundle, or the beginning of it")
    clear.set_defaults(command=_quarantine_clear)


def _add_identity(
    identity: argparse.ArgumentParser, common: argparse.ArgumentParser, shown: argparse.ArgumentParser
) -> None:
    commands = identity.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "show", parents=[common, shown], help="show the key's fingerprint and the certificate; make the key if need be"
    )
    show.set_defaults(command=_identity_show)
    reset = commands.add_parser(
        "reset", parents=[common], help="remove every key and certificate for good, before the device changes hands"
    )
    reset.set_defaults(command=_identity_reset)


def _add_tuf_client(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that the tuf-conformance suite drives (its CLIENT-CLI.md); for tests, so no help names it."""
    client = commands.add_parser("tuf-client")
    client.add_argument("--metadata-dir", type=Path, required=True)
    client.add_argument("--metadata-url", default="")
    client.add_argument("--target-name", action="append", default=[])
    client.add_argument("--target-base-url", default="")
    client.add_argument("--target-dir", type=Path, default=Path())
    client.add_argument("action", choices=("init", "refresh", "download"))
    client.add_argument("trusted_root", type=Path, nargs="?")
    client.set_defaults(command=_tuf_client, debug=False)


def _run(options: argparse.Namespace) -> None:
    loaded = load(options.config)
    logs.configure("debug" if options.debug else loaded.config.log)
    start_shared = _module("dsops_agent.shared_start").start_shared
    early = _module("dsops_agent.launching").EarlyStart.of(loaded.config, start_shared)
    for drivers in ("pkcs11", "boto3"):
        leave_out(drivers)  # TUF's library loads them for signers; a device only checks signatures
    try:
        agent = _module("dsops_agent.app").Agent(loaded.config, SystemClock(), early)
        agent.stop_on_signals()
        agent.run()
    finally:
        early.end()


def _module(name: str) -> ModuleType:
    """Import what needs the agent's libraries, which asking for help or a version does not."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "the agent's libraries are not installed", why=str(error), hint="pip install 'dsops[agent]'"
        ) from error


def _identity_show(options: argparse.Namespace) -> None:
    config = load(options.config).config
    identity = _module("dsops_agent.identity_commands").show(config.state, config.device)
    if options.output == "json":
        _print_json(identity.as_dict())
    else:
        _print_table(identity.rows())


def _identity_reset(options: argparse.Namespace) -> None:
    config = load(options.config).config
    _module("dsops_agent.identity_commands").reset(config.state)
    sys.stdout.write(f"{config.device} has no identity any more\n")


def _quarantine_list(options: argparse.Namespace) -> None:
    listed = _module("dsops_agent.quarantine_commands").listed(load(options.config).config.state)
    if options.output == "json":
        _print_json([one.model_dump(mode="json") for one in listed])
    else:
        rows = [(one.model, one.digest, one.problem.code, one.problem.message) for one in listed]
        _print_table([("MODEL", "DIGEST", "CODE", "TEXT"), *rows])


def _quarantine_clear(options: argparse.Namespace) -> None:
    digest = _module("dsops_agent.quarantine_commands").clear(load(options.config).config.state, options.digest)
    sys.stdout.write(f"{digest} is not in quarantine any more\n")


def _tuf_client(options: argparse.Namespace) -> None:
    """Run one command of the suite, whose only exit codes are 0 and 1."""
    client = importlib.import_module("dsops_agent.trust.tuf_client")
    try:
        client.run(options)
    except DsopsError as error:
        sys.stderr.write(describe(error) + "\n")
        sys.exit(1)


def _install(options: argparse.Namespace) -> None:
    command = _module("dsops_agent.install_command")
    command.install(load(options.config).config, options.path, command.say)


def _feed(options: argparse.Namespace) -> None:
    config = load(options.config).config
    module = _module("dsops_agent.feed.stdin")
    wanted = module.Wanted(
        config.device, options.stdin, tuple(options.show), options.raw, options.scale, options.form, options.key
    )
    module.feed_stdin(str(config.inference_socket), wanted)


def _status(options: argparse.Namespace) -> None:
    config = load(options.config).config
    status = read_status(config.state / "status.json")
    running = is_running(config.state)
    if not running:  # what the file says of connections and processes was true once
        status = status.model_copy(update={"connected": False, "runtime_pid": None})
    if options.output == "json":
        _print_json({"running": running, **status.model_dump(mode="json")})
    else:
        _print_table(_status_rows(status, running))
    if options.check:
        why = status.unhealthy_because() if running else "no agent runs with this configuration"
        if why:
            raise AwaitedFailure("the agent is not in order", why=why, hint="see the agent's log")


def _status_rows(status: Status, running: bool) -> Iterable[tuple[str, ...]]:
    yield "device", status.device
    yield "agent", f"{status.version}, {f'process {status.pid}' if running else 'not running'}"
    yield "enrolled", f"yes, fleet {status.fleet}" if status.enrolled else "no"
    if status.clock is not ClockState.PLAUSIBLE:
        yield "clock", _CLOCK[status.clock]
    if status.certificate_expires is not None:
        ends = status.certificate_expires.isoformat(timespec="seconds")
        yield "certificate", f"ends {ends}, of key {status.fingerprint}"
    yield "broker", "connected" if status.connected else "not connected"
    yield (
        "inference",
        f"process {status.runtime_pid}, {status.inference_socket}" if status.runtime_pid else "not running",
    )
    yield from _model_rows(status)
    yield from _source_rows(status)
    yield from _feed_rows(status.feed)
    for kind, spool in status.spool.items():
        figures = f"{spool.produced} produced, {spool.stored} stored, {spool.dropped} dropped, {spool.pending} pending"
        yield kind, figures
    for name, text in status.problems.items():
        yield f"problem ({name})", text
    yield "updated", status.updated.isoformat(timespec="seconds")


def _model_rows(status: Status) -> Iterable[tuple[str, ...]]:
    for name, model in status.models.items():
        active = f"release {model.active_release}" if model.active else "nothing"
        yield f"model {name}", f"{active} active; newest install: {model.install.value} {model.progress:.0%}"
        if name in status.files:
            yield "", f"its files: {status.files[name]}"
        if model.waiting:
            yield "", f"waits: {model.waiting}"
        if model.problem:
            yield "", f"{model.problem.code}: {model.problem.message}"
        if model.challenger:
            yield "", _challenger_row(model.challenger)
    for one in status.quarantine:
        yield "quarantined", f"{one.model} {one.digest[:12]}: {one.problem.code}: {one.problem.message}"
    if status.scrubbed is not None:
        yield "stored bundles", f"read again {status.scrubbed.isoformat(timespec='seconds')}"


def _challenger_row(challenger: ChallengerState) -> str:
    active = f"release {challenger.release} is compared" if challenger.active else "nothing is compared"
    problem = f"; {challenger.problem.code}: {challenger.problem.message}" if challenger.problem else ""
    return f"challenger: {active}; newest install: {challenger.install.value} {challenger.progress:.0%}{problem}"


def _source_rows(status: Status) -> Iterable[tuple[str, ...]]:
    for source in status.sources:
        aside = f"; set aside for {source.aside_s:.0f} s more" if source.aside_s else ""
        yield f"source {source.name}", f"{source.chunks} chunks, {source.total_bytes} bytes{aside}"
        if source.problem:
            yield "", f"{source.problem.code}: {source.problem.message}"


def _feed_rows(feed: FeedStatus | None) -> Iterable[tuple[str, ...]]:
    if feed is None:
        return
    again = f", started again {feed.restarts} times" if feed.restarts else ""
    yield "feed", f"process {feed.pid}{again}" if feed.pid else f"not running{again}"
    for name, source in feed.sources.items():
        figures = f"{source.frames} frames, {source.answers} answers, {source.failures} failures, {source.drops} drops"
        yield f"frames of {name}", f"{source.kind}: {figures}"
        if source.problem:
            yield "", source.problem
    for name, sink in feed.sinks.items():
        figures = f"{sink.answers} answers, {sink.failures} failures, {sink.drops} drops"
        yield f"sink {name}", f"{sink.kind}: {figures}"
        if sink.problem:
            yield "", sink.problem


def _config_show(options: argparse.Namespace) -> None:
    settings = load(options.config).settings()
    if options.output == "json":
        _print_json([{"key": s.key, "value": s.value, "origin": s.origin, "meaning": s.meaning} for s in settings])
    else:
        header = ("KEY", "VALUE", "ORIGIN", "MEANING")
        _print_table([header, *((s.key, _text(s.value), s.origin, s.meaning) for s in settings)])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    kept = list(rows)
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    for row in kept:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


if __name__ == "__main__":
    sys.exit(main())
