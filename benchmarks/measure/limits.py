"""What this machine can do at best: a file over a plain socket, over HTTP with curl, through mosquitto's clients."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsops.errors import BrokerUnreachable, TransferFailed
from dsops_controller.demo.ports import free_ports
from dsops_controller.server.tls import Credentials
from measure.broker import HOST, RunningBroker
from measure.child import stop
from measure.sender import SINGLE_TOPIC

PIECE = 256 * 1024
LAST_S = 60.0


def missing(*programs: str) -> str:
    """Return which programs are not there, as people read it; empty when all are."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def over_a_socket(file: Path) -> float:
    """Send a file over a TCP connection of this machine; return the seconds that it took."""
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=_send, args=(listener.getsockname(), file))
        thread.start()
        connection, _ = listener.accept()
        with connection:
            left, buffer = file.stat().st_size, bytearray(PIECE)
            began_s = time.monotonic()
            while left > 0 and (size := connection.recv_into(buffer)):
                left -= size
            took_s = time.monotonic() - began_s
        thread.join()
    if left:
        raise TransferFailed("the plain socket lost the file")
    return took_s


def _send(address: tuple[str, int], file: Path) -> None:
    with socket.create_connection(address) as sock, file.open("rb") as source:
        sock.sendfile(source)


@contextmanager
def http_server(folder: Path) -> Iterator[int]:
    """Serve a folder with Python's own HTTP server; yields its port."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST, "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        stop(process)


def _wait_for(port: int) -> None:
    ends_s = time.monotonic() + LAST_S
    while time.monotonic() < ends_s:
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise BrokerUnreachable("the HTTP server did not start")


def curl(port: int, file: Path, into: Path) -> float:
    """Fetch a file with curl onto the disk; return the seconds that curl says it took."""
    command = ["curl", "-sf", "-o", str(into), "-w", "%{time_total}", f"http://{HOST}:{port}/{file.name}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LAST_S).stdout
    _compare(file, into)
    return float(said)


def _mosquitto(program: str, port: int, keys: Credentials | None) -> list[str]:
    command = [program, "-h", "localhost", "-p", str(port), "-V", "mqttv5", "-t", SINGLE_TOPIC]
    if keys is None:
        return command
    return [*command, "--cafile", str(keys.ca), "--cert", str(keys.certificate), "--key", str(keys.key)]


def mosquitto_pub(running: RunningBroker, keys: Credentials, file: Path) -> float:
    """Publish a file as one retained message with mosquitto_pub; return the seconds that it took."""
    command = [*_mosquitto("mosquitto_pub", running.port, keys), "-i", "controller", "-q", "1", "-r", "-f", str(file)]
    began_s = time.monotonic()
    subprocess.run(command, check=True, timeout=LAST_S, capture_output=True)
    return time.monotonic() - began_s


def mosquitto_sub(port: int, keys: Credentials | None, file: Path, into: Path) -> float:
    """Fetch the retained message with mosquitto_sub onto the disk; return the seconds, its start included."""
    command = [*_mosquitto("mosquitto_sub", port, keys), "-i", "peer", "-q", "0", "-C", "1", "-N"]
    began_s = time.monotonic()
    with into.open("wb") as output:
        subprocess.run(command, check=True, timeout=LAST_S, stdout=output, stderr=subprocess.DEVNULL)
    took_s = time.monotonic() - began_s
    _compare(file, into)
    return took_s


def _compare(file: Path, into: Path) -> None:
    if file.read_bytes() != into.read_bytes():
        raise TransferFailed(f"a peer did not bring {file.name} whole")
    into.unlink()
