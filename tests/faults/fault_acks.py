"""What the device told the world outside: it is acknowledged, and must be durable from then on."""

import json
import os
from pathlib import Path
from typing import Any


class Acks:
    """What the device told the world outside; every line is out before the call returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.changes = 0

    def put(self, **fact: Any) -> None:
        os.write(self._file, json.dumps(fact).encode() + b"\n")


def read_acks(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
