"""An S3 server in a process of its own, over HTTP on loopback: moto's."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3

from dsops.clock import Clock, SystemClock
from dsops_controller.dataops.lake.places import Place, place_of

KEYS = {"aws_access_key_id": "lake", "aws_secret_access_key": "secret", "aws_region": "us-east-1"}
DEADLINE_S = 60.0


class S3:
    """The server: its address, and buckets on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=KEYS["aws_access_key_id"],
            aws_secret_access_key=KEYS["aws_secret_access_key"],
            region_name=KEYS["aws_region"],
        )

    @property
    def options(self) -> Mapping[str, str]:
        """Return what `[store] options` says for this server."""
        return {"aws_endpoint_url": self.url, "aws_allow_http": "true", **KEYS}

    def place(self) -> Place:
        """Make a bucket and return a place in it."""
        name = f"lake-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=name)
        return self.again(f"s3://{name}/fleet/lake", SystemClock())

    def again(self, url: str, clock: Clock) -> Place:
        """Return the place as another controller has it."""
        return place_of(url, Path(), self.options, clock)


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run a server until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url)
        yield S3(url)
    finally:
        process.terminate()
        process.wait()


def _wait(url: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
