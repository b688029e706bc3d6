"""``dsops-agent tuf-client``, which the public conformance suite drives, over a real HTTP server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from trust_stage import Repository

from dsops.clock import SystemClock
from dsops_agent import cli

PATH = "digits/1.int8.bundle"


@dataclass
class Site:
    """A repository on an HTTP server, and a client's folders."""

    repository: Repository
    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fault: dict[str, int] = field(default_factory=dict)
    port: int = 0

    def publish(self) -> None:
        self.files = {f"/metadata/{name}": data for name, data in self.repository.files.items()}
        target = self.repository.roles["model-digits"].signed.targets[PATH]
        self.files[f"/targets/digits/{target.hashes['sha256']}.1.int8.bundle"] = b"release one"

    def client(self, *arguments: str) -> int:
        url = f"http://127.0.0.1:{self.port}"
        options = ["--metadata-dir", str(self.folder / "metadata"), "--metadata-url", f"{url}/metadata"]
        options += ["--target-base-url", f"{url}/targets", "--target-dir", str(self.folder / "targets")]
        try:
            return cli.main(["tuf-client", *options, *arguments])
        except SystemExit as end:
            return int(end.code or 0)

    def init(self) -> int:
        root = self.folder / "root"
        root.write_bytes(self.repository.first_root)
        return self.client("init", str(root))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    now = SystemClock().now()
    repository = Repository(expires=now + timedelta(days=365), timestamp_expires=now + timedelta(days=3))
    made = Site(repository, tmp_path)
    made.publish()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            data = made.files.get(self.path)
            self.send_response(made.fault.get(self.path, 404 if data is None else 200))
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_init_refresh_and_download(site: Site) -> None:
    assert site.init() == 0
    assert site.asked == []
    assert site.client("refresh") == 0
    assert sorted(path.name for path in (site.folder / "metadata").glob("*.json")) == [
        "root.json",
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    ]
    assert site.client("--target-name", PATH, "download") == 0
    assert [path.read_bytes() for path in (site.folder / "targets").iterdir()] == [b"release one"]
    fetched = len([path for path in site.asked if path.startswith("/targets")])
    assert site.client("--target-name", PATH, "download") == 0
    assert len([path for path in site.asked if path.startswith("/targets")]) == fetched, "it was fetched already"


def test_failures_are_one_line_each_and_exit_code_one(site: Site, capsys: Any) -> None:
    assert site.client("refresh") == 1
    assert "Traceback" not in capsys.readouterr().err
    site.init()
    assert site.client("--target-name", "digits/9.int8.bundle", "download") == 1
    assert "nobody signed" in capsys.readouterr().err
    target = next(path for path in site.files if path.startswith("/targets"))
    site.files[target] = b"release 0ne"
    assert site.client("--target-name", PATH, "download") == 1
    assert "is refused" in capsys.readouterr().err
    assert not (site.folder / "targets").exists() or not list((site.folder / "targets").iterdir())


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_fails_is_not_a_server_that_has_no_newer_root(site: Site, new_signer: Any, status: int) -> None:
    site.init()
    site.repository.rotate("snapshot", new_signer())
    site.repository.publish()
    site.publish()
    site.fault["/metadata/2.root.json"] = status
    assert site.client("refresh") == 1
    assert not (site.folder / "metadata" / "timestamp.json").exists()
    site.fault.clear()
    assert site.client("refresh") == 0


def test_server_that_is_gone_is_not_a_server_that_has_no_newer_root(site: Site, capsys: Any) -> None:
    site.init()
    site.port = 1
    assert site.client("refresh") == 1
    assert "did not answer" in capsys.readouterr().err


def test_no_help_names_it_and_the_agent_does_not_load_it() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "dsops_agent.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "tuf" not in shown.stdout
    code = "import sys, dsops_agent.app; print('dsops_agent.trust.tuf_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
