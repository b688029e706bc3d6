"""How much memory a process had resident at most while something was done (proc(5), ``VmHWM``)."""

import re
from pathlib import Path


class MemoryPeak:
    """Measures from now on, whatever the process needed before."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak is the present use again
        self._before_kib = self._read("VmRSS")

    def growth_bytes(self) -> int:
        """Return by how much the peak since then exceeds what was in use then."""
        return (self._read("VmHWM") - self._before_kib) * 1024

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (self._folder / "status").read_text(), flags=re.MULTILINE)
        assert found is not None
        return int(found[1])
