"""One champion and its challenger in the champion's runtime: copies go to the challenger, or requests of some keys do.

The request path draws, and puts a copy into a queue with bounds; nothing of it waits. The thread of the duel takes
copies while its own and the device's budget of processor time allow it, asks, compares and counts. A request that the
challenger shall answer waits for it, but not for long, and not at all for a while after it gave no answer, or while
champions leave no processor time: then the champion answers.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dsops.clock import Clock
from dsops.modes import Mode
from dsops_agent.rival import Rival
from dsops_agent.runtime.answer import Answer, Values
from dsops_agent.runtime.brake import Brake
from dsops_agent.runtime.compare import confidences, difference
from dsops_agent.runtime.comparison import Comparison
from dsops_agent.runtime.cpu_allowance import CpuAllowance, process_cpu_s
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.observe import Observation
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.rival import RivalAnswer, RivalClient, RivalRefused, RivalUnavailable
from dsops_agent.runtime.sent import SentInputs
from dsops_agent.runtime.split import goes_to_challenger

logger = logging.getLogger(__name__)

MAX_WAITING = 32
MAX_WAITING_BYTES = 8 << 20
SHADOW_TIMEOUT_S = 5.0
REST_S = 1.0
"""How long a challenger that gave no answer is not asked for one that a caller waits for."""
AFTER_S = 0.01
"""How long after its answer a copy waits at least: until then the champion's answer is on its way out."""
_LOOK_S = 0.2


@dataclass(frozen=True)
class Copy:
    """A request that the champion answered.

    Attributes:
        seen: The request and the answer, with all that they keep in memory.
        champion: What answered it.
        sent: What the caller sent.
        due_s: When the challenger may be asked.
    """

    seen: Observation
    champion: ServedModel
    sent: SentInputs
    due_s: float


class _Resting(RivalUnavailable):
    """It gave no answer a moment ago, or champions leave no processor time; why stands in the counts already."""

    code = ""


@dataclass(frozen=True)
class Terms:
    """What every duel of a process goes by.

    Attributes:
        put: Takes each finished record.
        interval_s: Length of an interval.
        wait_s: How long a caller may wait for a challenger.
        clock: Tells the time.
        brake: Says whether champions leave any processor time.
    """

    put: Callable[[Kind, bytes, bool], None]
    interval_s: float
    wait_s: float
    clock: Clock
    brake: Brake


class Duel:
    """One challenger beside its champion. Safe to call from several threads; ``run`` is the body of one.

    Args:
        rival: The challenger.
        terms: What it goes by.
        chance: Returns a number from 0 to 1, evenly spread.
    """

    def __init__(self, rival: Rival, terms: Terms, chance: Callable[[], float]) -> None:
        self.rival = rival
        self._terms = terms
        self._clock = clock = terms.clock
        self._chance = chance
        self._client = RivalClient(rival)
        self._allowance = CpuAllowance(rival.cpu_share, clock.monotonic_s())
        self._seen_cpu_s: float | None = None
        self._copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._comparison: Comparison | None = None
        self._due_s = clock.monotonic_s() + terms.interval_s
        self._rests_until_s = 0.0
        self._stopped = threading.Event()

    # On the request path.

    def draws(self) -> bool:
        """Return whether a copy of this request shall go to the challenger: of a share of them."""
        return self.rival.mode is Mode.SHADOW and self._chance() < self.rival.share

    def watch(self, seen: Observation) -> None:
        """Keep an answered request if a copy was made of it for the challenger. Never waits."""
        if seen.copied is None or seen.champion is None:
            return
        if self.rival.mode is not Mode.SHADOW:  # another one took over since it was drawn
            return
        copy, size = Copy(seen, seen.champion, seen.copied, self._clock.monotonic_s() + AFTER_S), seen.size_bytes
        with self._lock:
            if self._copies.qsize() >= MAX_WAITING or (
                self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES
            ):
                self._of(seen.champion).skipped += 1
                return
            self._waiting_bytes += size
        self._copies.put(copy)

    def answer(
        self, served: ServedModel, sent: SentInputs, key: str, request_id: str, left_s: float = math.inf
    ) -> RivalAnswer | None:
        """Return the challenger's answer if the key is one of its own and it gives one in time; else None."""
        rival = self.rival
        if rival.mode is not Mode.SPLIT or not goes_to_challenger(rival.salt, key, rival.share):
            return None
        try:
            found = self._ask(served, sent, request_id, min(self._terms.wait_s, left_s / 2))
        except RivalUnavailable as error:
            logger.log(
                _level(error), "model %s: the champion answers instead of the challenger: %s", served.name, error
            )
            with self._lock:
                counts = self._of(served)
                counts.fallbacks += 1
                counts.reason = error.code or counts.reason
            return None
        return found

    def answer_named(self, served: ServedModel, sent: SentInputs, request_id: str, left_s: float) -> RivalAnswer:
        """Return the challenger's answer to a request that names its release.

        Raises:
            RivalUnavailable: It gives none in time, or does not take the request.
        """
        try:
            return self._ask(served, sent, request_id, min(self._terms.wait_s, left_s))
        except RivalUnavailable as error:
            with self._lock:
                counts = self._of(served)
                counts.failed += 1
                counts.reason = error.code or counts.reason
            raise

    def _ask(self, served: ServedModel, sent: SentInputs, request_id: str, wait_s: float) -> RivalAnswer:
        if self._clock.monotonic_s() < self._rests_until_s or not self._terms.brake.leaves_any(self.rival.pid):
            raise _Resting("the challenger is not asked at the moment")
        try:
            found = self._client.ask(served, sent, request_id, served.offered, wait_s)
        except RivalRefused:  # one caller's fault must not move the keys of all others
            raise
        except RivalUnavailable:
            self._rests_until_s = self._clock.monotonic_s() + REST_S
            raise
        with self._lock:
            self._of(served).answered += 1
        return found

    # The duel's thread.

    def run(self) -> None:
        """Ask and compare until :meth:`stop`; then report what was found."""
        while not self._stopped.is_set():
            try:
                self._compare(self._copies.get(timeout=_LOOK_S))
            except queue.Empty:
                pass
            except Exception:  # the border of the thread: one copy's trouble is not the next one's
                logger.exception("a copy could not be compared")
            if self._clock.monotonic_s() >= self._due_s:
                self._end_interval()
        self._client.close()
        self._end_interval()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped.set()

    def abandon(self) -> None:
        """Let :meth:`run` return at once: who waits for the challenger gets no answer of it."""
        self._stopped.set()
        self._client.close()

    def finish(self) -> None:
        """Report what was counted since the last interval ended."""
        self._end_interval()

    def _compare(self, copy: Copy) -> None:
        seen, served = copy.seen, copy.champion
        self._stopped.wait(max(0.0, copy.due_s - self._clock.monotonic_s()))
        with self._lock:
            self._waiting_bytes -= seen.size_bytes
        if not self._may_spend() or not self._terms.brake.leaves_any(self.rival.pid):
            with self._lock:
                self._of(served).skipped += 1
            return
        began_s = time.thread_time()
        named = _default_outputs(served, seen.answer)
        try:
            theirs = self._client.ask(served, copy.sent, seen.request_id, named, SHADOW_TIMEOUT_S)
            found = difference(served.manifest.task, named, theirs.named)
        except (RivalUnavailable, KeyError, ValueError) as error:
            logger.debug("model %s: nothing to compare: %s", served.name, error)
            with self._lock:
                counts = self._of(served)
                counts.failed += 1
                counts.reason = error.code if isinstance(error, RivalUnavailable) else RivalUnavailable.code
            is_gone = isinstance(error, RivalUnavailable) and not isinstance(error, RivalRefused)
            self._stopped.wait(REST_S if is_gone else 0.0)
        else:
            sure = confidences(served.manifest, named), confidences(served.manifest, theirs.named)
            frames = len(found.distance)
            latency_us = list(seen.answer.latency_us), [theirs.latency_us / frames] * frames
            with self._lock:
                self._of(served).add(found, latency_us, sure)
            if disputed := found.disputed:
                seen.watch.disputed(seen.exchange, disputed)
        here_s = time.thread_time() - began_s
        self._allowance.spend(here_s)
        self._terms.brake.set_aside(here_s)

    def _may_spend(self) -> bool:
        """Pay for what the challenger's process has taken since the last look; return whether anything is left."""
        try:
            cpu_s = process_cpu_s(self.rival.pid)
        except OSError:  # it is gone, and asking it will say so
            return True
        if self._seen_cpu_s is not None:
            self._allowance.spend(cpu_s - self._seen_cpu_s)
        self._seen_cpu_s = cpu_s
        return self._allowance.has_any(self._clock.monotonic_s())

    def _of(self, served: ServedModel) -> Comparison:
        """Return the counts of this interval; a new champion begins new ones."""
        if self._comparison is not None and self._comparison.digest != served.digest:
            self._report(self._comparison)
            self._comparison = None
        if self._comparison is None:
            now, now_s = self._clock.now(), self._clock.monotonic_s()
            self._comparison = Comparison(served.manifest, served.digest, self.rival, now, now_s)
        return self._comparison

    def _end_interval(self) -> None:
        with self._lock:
            ended, self._comparison = self._comparison, None
        self._due_s = self._clock.monotonic_s() + self._terms.interval_s
        if ended is not None:
            self._report(ended)

    def _report(self, comparison: Comparison) -> None:
        if not comparison.is_empty:
            self._terms.put(Kind.TELEMETRY, comparison.encode(self._clock.monotonic_s()), False)


def _level(error: RivalUnavailable) -> int:
    return logging.DEBUG if isinstance(error, RivalRefused | _Resting) else logging.WARNING


def _default_outputs(served: ServedModel, answer: Answer) -> dict[str, Values]:
    return {output.name: output.take(answer) for output in served.offered.values() if output.by_default}
