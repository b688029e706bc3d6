"""A receiver of webhooks: a real web server that checks what it is told as one would."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "s3cret-of-sixteen-and-more"


@dataclass
class Receiver:
    """A web server that takes what is told it, or answers as it was said; each answer waits for ``open``."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def told(self) -> list[dict[str, Any]]:
        """Return the events after checking each signature as a receiver does."""
        found = []
        for headers, body in zip(self.headers, self.bodies, strict=True):
            signed = headers["x-dsops-timestamp"].encode() + b"." + body
            expected = "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
            assert hmac.compare_digest(headers["x-dsops-signature"], expected)
            assert headers["content-type"] == "application/cloudevents+json"
            event = json.loads(body)
            assert headers["idempotency-key"] == event["id"]
            found.append(event)
        return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run one."""
    made = Receiver()
    made.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            made.headers.append({name.lower(): value for name, value in self.headers.items()})
            made.came.set()
            made.open.wait(30)
            status, headers = made.answers.pop(0) if made.answers else (202, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield made
    made.open.set()
    server.shutdown()
    server.server_close()
    thread.join()
