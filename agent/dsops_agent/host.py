"""Facts and figures of the host, read from the operating system."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

import dsops
from dsops.errors import RuntimeMissing
from dsops.messages import Inventory
from dsops_agent.installed import version_of
from dsops_agent.temperature import ANY, hottest_c

_RUNTIMES = ("ai-edge-litert", "tflite-runtime")


@dataclass(frozen=True)
class HostFigures:
    """The host at one moment; bytes, percent of all processors, degrees Celsius (0 when there is no sensor)."""

    cpu_percent: float
    load_1m: float
    memory_used_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int
    agent_rss_bytes: int
    runtime_rss_bytes: int
    temperature_c: float


class Host(Protocol):
    """Reads the host."""

    def figures(self, runtime_rss_bytes: int) -> HostFigures:
        """Return the figures of now; the processor's are since the call before, the runtime's memory is its own word.

        /proc hides a process with a sealed model from its own user where the service manager wants it so.
        """
        ...


class SystemHost:
    """This host, seen through psutil.

    Args:
        folder: Whose disk's free space is reported.
        sensor: Pattern of the sensors that say how hot it is.
    """

    def __init__(self, folder: Path, sensor: str = ANY) -> None:
        self._sensor = sensor
        self._folder = folder
        psutil.cpu_percent()  # the first reading only starts the interval

    def figures(self, runtime_rss_bytes: int) -> HostFigures:
        """Return the figures of now."""
        memory = psutil.virtual_memory()
        return HostFigures(
            cpu_percent=psutil.cpu_percent(),
            load_1m=os.getloadavg()[0],
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            disk_free_bytes=psutil.disk_usage(str(self._folder)).free,
            agent_rss_bytes=int(psutil.Process().memory_info().rss),
            runtime_rss_bytes=runtime_rss_bytes,
            temperature_c=hottest_c(self._sensor),
        )


def inventory(site: str = "") -> Inventory:
    """Return what the device says of itself at birth; ``site`` is where it is, as its configuration says."""
    return Inventory(
        agent_version=dsops.__version__,
        hardware=platform.machine(),
        os=_os(),
        python=platform.python_version(),
        runtime=runtime_version(),
        cpus=os.cpu_count() or 0,
        memory_bytes=int(psutil.virtual_memory().total),
        site=site,
    )


def _os() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.release()}"


def runtime_version() -> str:
    """Return the name and version of the TFLite runtime that is installed, without loading it, or an empty text."""
    found = ((name, version_of(name)) for name in _RUNTIMES)
    return next((f"{name} {version}" for name, version in found if version), "")


def why_no_runtime() -> str:
    """Return that no TFLite runtime is installed and what to do about it, or an empty text."""
    return "" if runtime_version() else f"no TFLite runtime is installed: {RuntimeMissing.default_hint}"
