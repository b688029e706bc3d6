"""Hands a request over: to an address, a program or a folder. Each may be done again: the id says what is the same."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx

from dsops.clock import Clock
from dsops.errors import NoSpace
from dsops.files import write_atomically
from dsops_controller.retraining.envelope import CONTENT_TYPE, signature
from dsops_controller.retraining.settings import Command, Drop, Webhook

MIN_SECRET = 16
_SHOWN = 300
_LATER = frozenset({408, 425, 429})
"""Refusals that another attempt may pass (RFC 9110 section 15.5, RFC 6585, RFC 8470)."""
_MOST_WAIT_S = 86_400.0


class NotTaken(Exception):
    """A request was not taken.

    Attributes:
        why: What happened.
        is_final: Whether it is no use to try again.
        wait_s: After how long the other side wants to be asked again; 0 when it does not say.
    """

    def __init__(self, why: str, *, is_final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.is_final = is_final
        self.wait_s = wait_s


class Adapters:
    """Hands requests over.

    Args:
        folder: The server's folder; paths of the settings are relative to it.
        clock: Tells the time that a signature is over.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def deliver(self, adapter: Webhook | Command | Drop, request: str, body: bytes) -> None:
        """Hand one request over.

        Args:
            adapter: To whom.
            request: Its id.
            body: The envelope.

        Raises:
            NotTaken: It was not taken.
        """
        match adapter:
            case Webhook():
                self._post(adapter, request, body)
            case Command():
                self._run(adapter, request, body)
            case Drop():
                self._write(adapter, request, body)

    def _post(self, hook: Webhook, request: str, body: bytes) -> None:
        timestamp = str(int(self._clock.now().timestamp()))
        headers = {
            "Content-Type": CONTENT_TYPE,
            "X-Dsops-Timestamp": timestamp,
            "X-Dsops-Signature": signature(self._secret(hook), timestamp, body),
            "Idempotency-Key": request,
        }
        try:
            with httpx.Client(timeout=hook.timeout_s, trust_env=False, follow_redirects=False) as client:
                answer = client.post(hook.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise NotTaken(f"no answer from {hook.url}: {error}"[:_SHOWN]) from error
        if answer.is_success:
            return
        is_final = answer.status_code < 500 and answer.status_code not in _LATER
        why = f"{hook.url} answered {answer.status_code}: {answer.text[:100]}"
        wait_s = _seconds(answer.headers.get("Retry-After", ""))
        raise NotTaken(why[:_SHOWN], is_final=is_final, wait_s=wait_s)

    def _secret(self, hook: Webhook) -> bytes:
        path = self._folder / hook.secret_file
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise NotTaken(f"cannot read the secret {path}: {error.strerror}") from error
        if len(secret) < MIN_SECRET:
            raise NotTaken(f"the secret in {path} has fewer than {MIN_SECRET} characters")
        return secret

    def _run(self, command: Command, request: str, body: bytes) -> None:
        known = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TZ")}
        try:
            done = subprocess.run(
                command.arguments,
                input=body,
                capture_output=True,
                timeout=command.timeout_s,
                cwd=self._folder,
                env=known | {"DSOPS_RETRAINING": request},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NotTaken(f"{command.arguments[0]} did not end within {command.timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise NotTaken(f"cannot run {command.arguments[0]}: {error}"[:_SHOWN]) from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise NotTaken(f"{command.arguments[0]} ended with {done.returncode}: {said}"[:_SHOWN])

    def _write(self, drop: Drop, request: str, body: bytes) -> None:
        folder = self._folder / drop.folder
        try:
            write_atomically(folder / f"{request}.json", body)
        except (OSError, NoSpace) as error:
            raise NotTaken(f"cannot write below {folder}: {error}"[:_SHOWN]) from error


Deliver = Callable[[Webhook | Command | Drop, str, bytes], None]


def _seconds(text: str) -> float:
    return min(_MOST_WAIT_S, float(text)) if text.isascii() and text.isdecimal() else 0.0
