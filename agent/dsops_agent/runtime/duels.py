"""The challengers of the models that answer here: who has one, and what the request path asks of it."""

import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import fields

from dsops.decision import Decision
from dsops.errors import InvalidInput, NotServing
from dsops.modes import Mode
from dsops_agent.rival import Rival
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.duel import Duel, Terms
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.observe import Observation
from dsops_agent.runtime.rival import RivalAnswer, RivalRefused, RivalUnavailable, ToldModel
from dsops_agent.runtime.sent import SentInputs, frames_in

_UNNAMED = "ask again in a moment, or name no version: then the champion or the challenger answers"


class Duels:
    """Every challenger that is compared now, by model. Safe to call from several threads.

    Args:
        terms: What they go by.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
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
        pair = self._duels.get(seen.model)
        if pair:
            pair[0].watch(seen)

    def has(self, model: str) -> bool:
        """Return whether a model has a challenger."""
        return model in self._duels

    def draws(self, model: str) -> bool:
        """Return whether a copy of this request of a model's shall go to its challenger."""
        pair = self._duels.get(model)
        return pair is not None and pair[0].draws()

    def answer(
        self, served: ServedModel, sent: SentInputs, key: str, request_id: str, left_s: float = math.inf
    ) -> tuple[ServedModel, Answer] | None:
        """Return the answer of a champion's challenger, with who gave it, if it is the one to answer, and does.

        Args:
            served: The champion.
            sent: Inputs of the request.
            key: What decides who answers, such as a user or a machine; the same key gets the same bundle.
            request_id: What the caller calls the request.
            left_s: How long the caller waits; half of it is the champion's.
        """
        pair = self._duels.get(served.name)
        found = pair[0].answer(served, sent, key, request_id, left_s) if pair else None
        return _told(served, sent, pair[0].rival, found) if pair and found else None

    def splits(self, model: str, version: str) -> bool:
        """Return whether a release is the challenger that answers requests of some keys: it can be named as well."""
        pair = self._duels.get(model)
        return pair is not None and pair[0].rival.mode is Mode.SPLIT and version == str(pair[0].rival.release)

    def answer_named(
        self, served: ServedModel, version: str, sent: SentInputs, request_id: str, left_s: float = math.inf
    ) -> tuple[ServedModel, Answer]:
        """Return the answer of the challenger whose release a request names, with who gave it.

        Raises:
            NotServing: It is gone, or gives no answer in time.
            InvalidInput: It does not take the request.
        """
        pair, asked = self._duels.get(served.name), f"release {version} of model {served.name}"
        if pair is None or not self.splits(served.name, version):
            raise NotServing(f"{asked} is a challenger no more", hint=_UNNAMED)
        try:
            found = pair[0].answer_named(served, sent, request_id, left_s)
        except RivalRefused as error:
            raise InvalidInput(f"{asked} does not take this request", why=error.why or str(error)) from error
        except RivalUnavailable as error:
            raise NotServing(f"{asked}, a challenger, does not answer", why=error.why, hint=_UNNAMED) from error
        return _told(served, sent, pair[0].rival, found)

    def abandon(self) -> None:
        """Ask no challenger any more, nor wait for one; :meth:`finish` reports what was found."""
        for duel, _ in self._duels.values():
            duel.abandon()

    def finish(self, timeout_s: float) -> None:
        """Wait for the threads of abandoned duels, ``timeout_s`` seconds in all, and report what they found."""
        ends_s = time.monotonic() + timeout_s
        for duel, thread in self._duels.values():
            thread.join(max(0.0, ends_s - time.monotonic()))
            duel.finish()

    def _begin(self, name: str, rival: Rival) -> tuple[Duel, threading.Thread]:
        chance = random.SystemRandom().random
        duel = Duel(rival, self._terms, chance)
        thread = threading.Thread(target=duel.run, name=f"duel-{name}", daemon=True)
        thread.start()
        return duel, thread


def _told(served: ServedModel, sent: SentInputs, rival: Rival, found: RivalAnswer) -> tuple[ServedModel, Answer]:
    """Return a challenger's answer as the champion encodes it."""
    manifest = served.manifest.model_copy(update={"release": rival.release})
    news = {"manifest": manifest, "digest": rival.digest, "named": found.named}
    told = ToldModel(**{one.name: getattr(served, one.name) for one in fields(served)} | news)
    frames = frames_in(sent)
    return told, Answer((), Decision(), (found.latency_us / frames,) * frames)
