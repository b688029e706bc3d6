"""Makes a server's state folder: all of it, or nothing."""

import ipaddress
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsops.bundle import sha256_hex
from dsops.clock import Clock, SystemClock
from dsops.errors import Conflict, InvalidConfig, NoSpace, NotFound, StateDamaged
from dsops.files import fsync_folder, write_atomically, write_secret
from dsops.manifest import first_problem
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.fleet.ca import Authority
from dsops_controller.server import config as settings
from dsops_controller.server.mosquitto import BrokerFiles, write_broker_files
from dsops_controller.server.tls import is_loopback, server_names
from dsops_controller.trust.keys import OnlineKeys

OPERATOR_FILE = "operator.sha256"
EVERYWHERE = str(ipaddress.IPv4Address(0))


@dataclass(frozen=True)
class Ports:
    """TCP ports of a server: REST, MQTT broker, gRPC for agents, gRPC for new devices."""

    rest: int = 8443
    broker: int = 8883
    ingest: int = 8444
    enrolment: int = 8445


_PORTS = Ports()
_CLOCK = SystemClock()


def init_server(
    folder: Path,
    *,
    fleet: str,
    host: str = "127.0.0.1",
    ports: Ports = _PORTS,
    database: str = "",
    clock: Clock = _CLOCK,
) -> None:
    """Make the state folder of a new server.

    Args:
        folder: Must not exist.
        fleet: Name of the fleet.
        host: Name or address under which devices and operators reach the server. One of this machine alone, such as
            127.0.0.1, makes the server listen on this machine alone; any other makes it listen on every interface.
        ports: Ports to listen on.
        database: SQLAlchemy URL; empty means SQLite in the folder.
        clock: Tells the time.

    Raises:
        Conflict: The folder exists.
        InvalidConfig: A name or a port is not valid.
        NotFound: The folder above it does not exist.
        NoSpace: The disk is full.
    """
    final = folder.absolute()
    if final.exists() or final.is_symlink():
        raise Conflict(f"{folder} exists", hint="name a folder that is not there yet")
    config = _configuration(fleet, host, ports, database)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(mode=0o700)
        _fill(temporary, final, config, host, clock)
        _publish(temporary, final)
    except FileNotFoundError as error:
        raise NotFound(f"{final.parent} does not exist", hint="make it first") from error
    except OSError as error:
        raise _translated(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def operator_token_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) of the operator's token.

    Raises:
        StateDamaged: It cannot be read.
    """
    try:
        return (folder / OPERATOR_FILE).read_text().strip()
    except (OSError, ValueError) as error:
        raise StateDamaged(f"{folder / OPERATOR_FILE} cannot be read", why=str(error)) from error


def _configuration(fleet: str, host: str, ports: Ports, database: str) -> settings.ServerConfig:
    bind = host if is_loopback(host) else EVERYWHERE
    named = f"[{host}]" if ":" in host else host
    data = {
        "fleet": fleet,
        "database": database,
        "rest": {"host": bind, "port": ports.rest},
        # The controller reaches the broker as devices do; another broker is named in controller.toml.
        "broker": {"host": host, "port": ports.broker},
        "ingest": {"host": bind, "port": ports.ingest},
        "enrolment": {"host": bind, "port": ports.enrolment},
        "advertise": {"broker": f"{named}:{ports.broker}", "store": f"{named}:{ports.ingest}"},
    }
    try:
        return settings.ServerConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidConfig("a server cannot be set up so", why=first_problem(error)) from error


def _fill(folder: Path, final: Path, config: settings.ServerConfig, host: str, clock: Clock) -> None:
    authority = Authority.create(folder / "ca", config.fleet, clock)
    authority.issue_server(server_names(host)).save(folder / "ca", "server")
    authority.issue_client().save(folder / "ca", "controller")
    OnlineKeys.create(folder / "keys")
    (folder / "bundles").mkdir(mode=0o700)
    (folder / config.store.lake).mkdir(mode=0o700)
    listen = config.rest.host if config.rest.host != EVERYWHERE else ""
    files = BrokerFiles(listen, config.broker.port, config.broker.topic_prefix, final / "mosquitto", final / "ca")
    (folder / "mosquitto").mkdir(mode=0o700)
    write_broker_files(folder / "mosquitto", files)
    write_atomically(folder / settings.FILE, settings.encode_config(config).encode())
    (folder / settings.FILE).chmod(0o600)  # a database URL may hold a password
    _write_token(folder, config, host)
    _migrate(config.database_url(folder))


def _write_token(folder: Path, config: settings.ServerConfig, host: str) -> None:
    token = secrets.token_urlsafe(32)
    named = f"[{host}]" if ":" in host else host
    context = f'url = "https://{named}:{config.rest.port}"\nca = "ca/ca.crt"\ntoken = "{token}"\n'
    write_secret(folder / OPERATOR_FILE, sha256_hex(token.encode()).encode())
    write_secret(folder / "operator.toml", context.encode())


def _migrate(url: str) -> None:
    db = Database(url)
    try:
        migrate.upgrade(db)
    finally:
        db.close()


def _publish(temporary: Path, final: Path) -> None:
    for path, _, _ in os.walk(temporary):
        fsync_folder(Path(path))
    if final.exists():
        raise Conflict(f"{final} exists", hint="name a folder that is not there yet")
    temporary.rename(final)
    fsync_folder(final.parent)


def _translated(error: OSError, folder: Path) -> Conflict | NoSpace | InvalidConfig:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return NoSpace(f"cannot make {folder}", why=str(error.strerror))
    if isinstance(error, FileExistsError) or error.errno == 39:  # ENOTEMPTY: made by another meanwhile
        return Conflict(f"{folder} exists", hint="name a folder that is not there yet")
    return InvalidConfig(f"cannot make {folder}", why=str(error.strerror), hint="choose a folder that you may write")
