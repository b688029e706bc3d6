"""Writes the configuration and the access control list of a mosquitto 2 broker for one fleet.

Every client proves itself by a certificate of the fleet's authority; its name (CN) is its user name and its client id,
so no device can take another's place. The settings and why: MQTT 5.0 section 4.9 (flow control), mosquitto.conf(5).
"""

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsops.files import write_atomically
from dsops.ids import device_id

CONTROLLER = "controller"
"""Name (CN) of the controller's certificate; no device may have it (:func:`dsops.ids.device_id`)."""
PROBE = "controller-probe"
"""Name of the client by which the controller tries the broker out; no device may have it either."""
ACL_FILE, PID_FILE = "acl", "mosquitto.pid"


@dataclass(frozen=True)
class BrokerFiles:
    """What the broker's configuration names: where it listens, its topics, and its final folder and CA folder.

    Attributes:
        host: Address to listen on; empty listens on every one.
        port: TCP port.
        topic_prefix: First levels of every topic.
        folder: Absolute path that will hold ``mosquitto.conf``, ``acl`` and the broker's data.
        authority: Absolute path that will hold ``ca.crt``, ``server.crt`` and ``server.key``.
    """

    host: str
    port: int
    topic_prefix: str
    folder: Path
    authority: Path


def configuration(files: BrokerFiles) -> str:
    """Return the text of ``mosquitto.conf``."""
    listener = f"listener {files.port} {files.host}".rstrip()
    lines = [
        "# mosquitto -c mosquitto.conf",
        *_account(),
        f"pid_file {files.folder / PID_FILE}",
        "per_listener_settings false",
        "set_tcp_nodelay true",
        "# What a device or the controller may send; a chunk has 32 KiB, every other message at most 64 KiB.",
        "max_packet_size 131072",
        "max_inflight_messages 20",
        "# A controller that connects receives the retained state of every device at once.",
        "max_queued_messages 50000",
        "max_queued_bytes 33554432",
        "persistence true",
        f"persistence_location {files.folder / 'data'}/",
        "# Each save writes everything, and a device that fetches a bundle changes its subscriptions with every chunk:",
        "# saves that follow from changes would stop the broker. What it lost when killed is said again.",
        "autosave_on_changes false",
        "autosave_interval 60",
        "persistent_client_expiration 14d",
        "sys_interval 2",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        listener,
        f"cafile {files.authority / 'ca.crt'}",
        f"certfile {files.authority / 'server.crt'}",
        f"keyfile {files.authority / 'server.key'}",
        "# Written by the controller, which then sends SIGHUP to the process that pid_file names.",
        f"crlfile {files.authority / 'crl.pem'}",
        "require_certificate true",
        "use_identity_as_username true",
        "# Without this, a device could connect under another's client id and throw it out.",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {files.folder / ACL_FILE}",
    ]
    return "\n".join(lines) + "\n"


def access_control(topic_prefix: str, barred: Sequence[str] = ()) -> str:
    """Return the text of the access control list; ``%u`` is the name in the client's certificate.

    The ``barred`` devices may neither write nor read anything. The revocation list refuses their handshakes; this also
    binds a session that is open when the broker is told, and one that resumes an old TLS session by a ticket, for then
    OpenSSL looks at no certificate (RFC 8446 section 2.2).
    """
    controller = [f"topic write {topic_prefix}/{tail}" for tail in ("d/+/dn/#", "t/#", "c/#", "ctl/#")]
    reads = [f"topic read {topic_prefix}/d/+/up/#", "topic read $SYS/#"]
    probe = [f"user {PROBE}", f"topic readwrite {topic_prefix}/probe/#"]
    devices = [
        # Each by its name: whoever may write anywhere below may leave retained messages without an end.
        *(f"pattern write {topic_prefix}/d/%u/up/{tail}" for tail in ("conn", "state", "need")),
        f"pattern read {topic_prefix}/d/%u/dn/#",
        *(f"pattern read {topic_prefix}/{tail}" for tail in ("t/+", "c/+", "ctl/state")),
    ]
    denied = [line for name in barred for line in (f"user {device_id(name)}", "topic deny #")]
    return (
        "\n".join([f"user {CONTROLLER}", *controller, *reads, *probe, *denied, "", "# every device", *devices]) + "\n"
    )


def write_broker_files(into: Path, files: BrokerFiles) -> None:
    """Write ``mosquitto.conf``, ``acl`` and the data folder below ``into``, which will become ``files.folder``.

    Raises:
        NoSpace: The disk is full.
    """
    (into / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(into / ACL_FILE, access_control(files.topic_prefix).encode(), mode=0o600)
    write_atomically(into / "mosquitto.conf", configuration(files).encode())


def _account() -> list[str]:
    # Started by root, mosquitto becomes another user, who could not read the private folder that this one owns.
    try:
        return [f"user {pwd.getpwuid(os.geteuid()).pw_name}"]
    except KeyError:
        return []
