"""The way of every request through the data process, whatever it came by: its model, the answer, who is told of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dsops.errors import Abandoned, DsopsError, InvalidInput, NotFound, NotServing, TimedOut
from dsops_agent.runtime.admission import PATIENT, Admission, Caller
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.instances import Turn
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.observe import Observation, Observers
from dsops_agent.runtime.sent import SentInputs, frames_in
from dsops_agent.runtime.swap import Models, Serving

logger = logging.getLogger(__name__)

QUEUE = 16
CAPACITY = 56

Decode = Callable[[ServedModel], SentInputs]
"""Returns the inputs of a request to the model that answers it, or raises InvalidInput; a transport's part."""


@dataclass(frozen=True)
class Answered:
    """An answer, and which bundle gave it."""

    served: ServedModel
    answer: Answer


class Dispatcher:
    """Answers requests. Safe to call from several threads.

    Args:
        models: The active models.
        observers: Are told of every request that a champion answered.
        duels: The models' challengers.
        queue: Requests of one model that may wait while one is answered.
        capacity: Requests of all models that may be under way.
        hold: Keeps a request waiting while inference is held back, or raises Throttled.
    """

    def __init__(
        self,
        models: Models,
        observers: Observers,
        *,
        duels: Duels | None = None,
        queue: int = QUEUE,
        capacity: int = CAPACITY,
        hold: Callable[[Callable[[], None]], None] = lambda slowly: None,
    ) -> None:
        self._models = models
        self._observers = observers
        self._duels = duels
        self._hold = hold
        self.admission = Admission(queue, capacity, lambda: models.count)

    def infer(
        self,
        model: str,
        version: str,
        request_id: str,
        decode: Decode,
        *,
        key: str = "",
        caller: Caller = PATIENT,
    ) -> Answered:
        """Answer a request by one bundle, from its beginning to its end.

        Args:
            model: Name of the model.
            version: The release that answers: the active one, or a challenger of a split; empty for either.
            request_id: What the caller calls the request; a sample that is kept of it bears it.
            decode: Returns its inputs.
            key: Who or what asks, which decides between champion and challenger; without one the request's id does.
            caller: Who waits for it, and for how long.

        Raises:
            NotFound: No such model, or no such release of it, is active.
            NotServing: No model is, or the process ends.
            QueueFull: Too many requests of the model are under way.
            Throttled: Inference is held back, for longer than a caller should wait.
            TimedOut: The caller's deadline passed before the request was answered.
            Abandoned: The caller went away before.
            InvalidInput: The inputs are not the model's.
            InvalidModel: The interpreter fails, or an output is not finite.
        """
        is_rivals = bool(version and self._duels and self._duels.splits(model, version))
        serving = self.find(model, "" if is_rivals else version)
        with self.admission.place(serving.model.name) as place:
            self._hold(caller.slowly)  # within the queue's bounds: who waits here holds a thread
            has_rival = is_rivals or (self._duels is not None and self._duels.has(model))
            if has_rival:  # one that comes later is asked from the next request on
                caller.slowly()
            sent = decode(serving.model)
            if not serving.model.pace.is_quick(frames_in(sent)):
                caller.slowly()
            if self._duels and is_rivals and version != str(serving.model.release):  # it may have become the champion
                return Answered(*self._duels.answer_named(serving.model, version, sent, request_id, caller.check()))
            if self._duels and has_rival and not version:
                told = self._duels.answer(serving.model, sent, key or request_id, request_id, caller.check())
                if told:
                    return Answered(*told)
            inputs = serving.model.prepared(sent)  # not in the model's turn: it takes time that others can use
            turn = place.turn(caller, serving.model.instances, partial(self._models.grow, serving.model))
            answer = _answer(serving, inputs, turn)
        _count(serving, answer)
        copied = sent if self._duels and self._duels.draws(model) else None
        self._observers.offer(Observation.of(serving, inputs, answer, request_id, copied))
        return Answered(serving.model, answer)

    def find(self, model: str, version: str = "") -> Serving:
        """Return what serves a model now, if it is the release that is named.

        Raises:
            NotFound: No such model, or no such release of it, is active.
            NotServing: No model is.
        """
        try:
            serving = self._models.get(model)
        except NotFound as error:
            if self._models.names():
                raise
            raise NotServing("no model is active on this device") from error
        release = serving.model.release
        if version and version != str(release):
            raise NotFound(f"release {version[:32]} of model {model} is not active", why=f"{release} is")
        return serving

    def check(self, model: str, version: str = "") -> None:
        """Check that requests of a model are answered, by the release that is named if one is.

        Raises:
            NotFound: No such model, or no such release of it, is active.
            NotServing: No model is.
        """
        self.find(model, "" if self._duels and self._duels.splits(model, version) else version)

    def names(self) -> list[str]:
        """Return the names of the active models, sorted."""
        return self._models.names()

    def models(self) -> list[ServedModel]:
        """Return what is served, by name."""
        return [serving.model for serving in self._models.all()]


def _answer(serving: Serving, inputs: Mapping[str, Array], turn: Turn) -> Answer:
    try:
        answer = serving.model.infer(inputs, turn=turn)
        serving.health.answered(answer)
    except (InvalidInput, TimedOut, Abandoned, NotServing):  # the caller's, or the end of this process
        raise
    except DsopsError:
        serving.health.failed()
        serving.watch.failed()
        raise
    return answer


def _count(serving: Serving, answer: Answer) -> None:
    try:
        serving.watch.answered(answer)
    except Exception:  # the border to observation: a caller gets the answer, whatever goes wrong in watching it
        logger.exception("model %s: an answer could not be counted", serving.model.name)
