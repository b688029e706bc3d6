"""Takes requests of dsops by webhook, and believes only those that are signed. Standard library only.

    python3 receiver.py PORT SECRET_FILE FOLDER

Each request becomes one file of the folder, named by its id, so that one that comes twice is there once. Put it behind
a server that speaks TLS: dsops posts to https:// addresses, and to http:// only on its own machine.
"""

import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MAX_BYTES = 1 << 20
MAX_AGE_S = 300


def is_genuine(secret: bytes, timestamp: str, signature: str, body: bytes, now_s: float) -> bool:
    """Whether a body was signed with the secret, and lately: an old one may be replayed."""
    if not (timestamp.isascii() and timestamp.isdecimal()) or abs(now_s - int(timestamp)) > MAX_AGE_S:
        return False
    expected = "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())


class Receiver(BaseHTTPRequestHandler):
    """Answers one request."""

    secret = b""
    folder = Path()

    def do_POST(self) -> None:
        """Keep a genuine request, and say 202; 403 to any other."""
        length = min(MAX_BYTES, int(self.headers.get("Content-Length", "0")))
        body = self.rfile.read(length)
        timestamp, signature = (self.headers.get(f"X-Dsops-{name}", "") for name in ("Timestamp", "Signature"))
        if not is_genuine(self.secret, timestamp, signature, body, time.time()):
            self._answer(403)
            return
        name = hashlib.sha256(json.loads(body)["id"].encode()).hexdigest()
        (self.folder / f"{name}.json").write_bytes(body)
        self._answer(202)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    """Serve on this machine's loopback address."""
    port, secret_file, folder = sys.argv[1:4]
    Receiver.secret, Receiver.folder = Path(secret_file).read_bytes().strip(), Path(folder)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
