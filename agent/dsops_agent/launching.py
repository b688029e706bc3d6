"""How the inference process is started, and its early start: before the control process has loaded its own libraries.

A device that starts again answers from the moment that both processes are up; on more than one processor they come up
side by side.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from dsops.modes import Mode
from dsops_agent.config import Config
from dsops_agent.config_values import CHALLENGER_SOCKET
from dsops_agent.hangs import QUIET_S
from dsops_agent.runtime_process import (
    CHALLENGER_OOM_SCORE,
    SILENT_S,
    START_S,
    Launch,
    Starting,
    is_found,
    start,
)

SHADOW_PATIENCE = 10
"""So many times as long as others a shadow may take to start, to answer, and for a frame."""
logger = logging.getLogger(__name__)

_AS_IT_IS = {
    "grpc",
    "rest",
    "queue",
    "threads",
    "instances",
    "cpus",
    "nice",
    "max_temperature_c",
    "cpu_percent",
    "challenger_wait_s",
}


def launch(config: Config) -> Launch:
    """Return how the inference process is started."""
    delegate = config.inference.delegate
    settings = {
        "socket": str(config.inference_socket),
        **config.inference.model_dump(mode="json", include=_AS_IT_IS),
        "allow": config.inference.uids(),
        "temperature_sensor": config.temperature_sensor,
        "delegate": json.loads(delegate.as_json()) if delegate else None,
        "interval_s": config.telemetry.interval_s,
        "samples": config.samples.model_dump(mode="json"),
        "drift_enabled": config.drift.enabled,
        "reports": config.drift.model_dump(mode="json", exclude={"enabled"}),
    }
    return Launch(config.run_folder, json.dumps(settings), config.install.hang_s)


def launch_challenger(config: Config, folder: Path, model: str, mode: Mode) -> Launch:
    """Return how the process of a model's challenger is started.

    Drift is the champion's, samples come from real requests, and nobody but the champion's process asks it: no program
    may, and that process keeps it within the device's share of the processor and below its temperature. A shadow
    has the processor only when nobody else wants it: what takes long on a busy device is no fault of its bundle. A
    delegate that serves one process serves the champions'.
    """
    settings = json.loads(launch(config).settings_json)
    delegate = config.inference.delegate
    own = {
        "socket": str(folder / CHALLENGER_SOCKET),
        "grpc": "",
        "rest": "",
        "allow": [],
        "private": True,
        "instances": 1,
        "cpu_percent": 0.0,
        "max_temperature_c": 0.0,
        "drift_enabled": False,
        "shadow": mode is Mode.SHADOW,
    }
    if delegate and delegate.exclusive:
        own["delegate"] = None
    longer = SHADOW_PATIENCE if mode is Mode.SHADOW else 1
    return Launch(
        folder,
        json.dumps(settings | own),
        longer * config.install.hang_s,
        longer * START_S,
        longer * SILENT_S,
        longer * QUIET_S,
        model,
        mode.value,
        CHALLENGER_OOM_SCORE,
    )


class EarlyStart:
    """An inference process that was started before anybody could supervise it, until somebody takes it."""

    def __init__(self, starting: Starting | None = None) -> None:
        self._starting = starting

    @classmethod
    def of(cls, config: Config, begin: Callable[[Launch], Starting] = start) -> "EarlyStart":
        """Start the process of a device that has an identity, unless there is one already that can be taken over.

        What goes wrong here goes wrong again where it can be handled, and is not worth more than a line in the log.

        Args:
            config: The configuration.
            begin: Starts it.
        """
        wanted = launch(config)
        if not _has_identity(config.state) or is_found(wanted):
            return cls()
        try:
            wanted.run_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            return cls(begin(wanted))
        except OSError as error:
            logger.info("the inference process was not started early: %s", error)
            return cls()

    def take(self) -> Starting | None:
        """Return the process, which is the caller's from now on; None when there is none (any more)."""
        taken, self._starting = self._starting, None
        return taken

    def end(self) -> None:
        """End the process if nobody took it."""
        if (starting := self.take()) is not None:
            starting.end()


def _has_identity(state: Path) -> bool:
    return (state / "identity" / "active").is_symlink()
