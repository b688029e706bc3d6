"""Token buckets by name, for what strangers and devices may cause. Bounded: a flood of names costs no memory."""

import threading

from dsops.clock import Clock

MAX_NAMES = 10_000


class Allowance:
    """``burst`` at once for each name, ``per_s`` in the long run. From any thread."""

    def __init__(self, clock: Clock, burst: float, per_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str = "") -> bool:
        """Spend one token of ``name``; False when it has none left."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if len(self._levels) >= MAX_NAMES and name not in self._levels:
                self._forget(now_s)
            level, since_s = self._levels.get(name, (self._burst, now_s))
            level = min(self._burst, level + (now_s - since_s) * self._per_s)
            is_allowed = level >= 1
            self._levels[name] = (level - is_allowed, now_s)
            return is_allowed

    def _forget(self, now_s: float) -> None:
        """Drop the names that have everything again; if that is none, all of them."""
        kept = {n: held for n, held in self._levels.items() if held[0] + (now_s - held[1]) * self._per_s < self._burst}
        self._levels = kept if len(kept) < MAX_NAMES else {}
