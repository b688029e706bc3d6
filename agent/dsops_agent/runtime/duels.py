"""The challengers of the models that answer here: who has one, and what the request path asks of it."""

import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial

from dsops.clock import Clock
from dsops.decision import Decision
from dsops_agent.rival import Rival
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.duel import Duel
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.observe import Observation
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.rival import ToldModel


class Duels:
    """Every challenger that is compared now, by model. Safe to call from several threads.

    Args:
        put: Takes each finished record.
        interval_s: Length of an interval.
        wait_s: How long a caller may wait for a challenger.
        clock: Tells the time.
    """

    def __init__(
        self, put: Callable[[Kind, bytes, bool], None], interval_s: float, wait_s: float, clock: Clock
    ) -> None:
        self._put = put
        self._interval_s = interval_s
        self._wait_s = wait_s
        self._clock = clock
        self._duels: Mapping[str, tuple[Duel, threading.Thread]] = {}
        self._changing = threading.Lock()

    def follow(self, rivals: Mapping[str, Rival]) -> None:
        """Have these challengers and no others; one that stays as it is goes on."""
        with self._changing:
            before = self._duels
            kept = {name: pair for name, pair in before.items() if rivals.get(name) == pair[0].rival}
            made = {name: self._begin(name, rival) for name, rival in rivals.items() if name not in kept}
            self._duels = {**kept, **made}  # at once: a request sees the one or the other
            for name, (duel, _) in before.items():
                if name not in kept:
                    duel.stop()

    def watch(self, seen: Observation) -> None:
        """Take note of a request that a champion answered. Never waits."""
        pair = self._duels.get(seen.serving.model.name)
        if pair:
            disputed = partial(seen.serving.watch.disputed, seen.exchange)
            pair[0].watch(seen.serving.model, seen.inputs, seen.answer, seen.request_id, disputed)

    def answer(
        self, served: ServedModel, inputs: Mapping[str, Array], key: str, request_id: str, left_s: float = math.inf
    ) -> tuple[ServedModel, Answer] | None:
        """Return the answer of a champion's challenger, with who gave it, if it is the one to answer, and does.

        Args:
            served: The champion.
            inputs: Of the request.
            key: What decides who answers, such as a user or a machine; the same key gets the same bundle.
            request_id: What the caller calls the request.
            left_s: How long the caller waits; half of it is the champion's.

        Raises:
            InvalidInput: The inputs are not the model's.
        """
        pair = self._duels.get(served.name)
        found = pair[0].answer(served, inputs, key, request_id, left_s) if pair else None
        if pair is None or found is None:
            return None
        rival = pair[0].rival
        manifest = served.manifest.model_copy(update={"release": rival.release})
        news = {"manifest": manifest, "digest": rival.digest, "named": found.named}
        told = ToldModel(**{one.name: getattr(served, one.name) for one in fields(served)} | news)
        frames = len(next(iter(inputs.values())))
        return told, Answer((), Decision(), (found.latency_us / frames,) * frames)

    def stop(self) -> None:
        """End every duel, and report what was found."""
        pairs = list(self._duels.values())
        self.follow({})
        for _, thread in pairs:
            thread.join(1.0)

    def _begin(self, name: str, rival: Rival) -> tuple[Duel, threading.Thread]:
        chance = random.SystemRandom().random
        duel = Duel(rival, self._put, self._interval_s, self._wait_s, self._clock, chance)
        thread = threading.Thread(target=duel.run, name=f"duel-{name}", daemon=True)
        thread.start()
        return duel, thread
