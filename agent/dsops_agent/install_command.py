"""``dsops-agent install PATH``: offers a bundle file or a kit to the running agent, and follows the install."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dsops.errors import AwaitedFailure, Conflict, DsopsError, Interrupted, InvalidInput, StateDamaged, from_dict
from dsops.kit import KIT_FILE
from dsops.messages import ChallengerState, ModelState, Problem
from dsops.states import Install
from dsops_agent.config import Config
from dsops_agent.install.places import is_challenger, model_of, states_by_place
from dsops_agent.sources.offers import leave
from dsops_agent.status import Status, is_running, read_status

State = ModelState | ChallengerState

_LOOK_S = 0.3
_SHOWN = 200
_HINT = "see: dsops-agent status"


class Follower:
    """Says what is new about one offer. Pure.

    Args:
        offer: Its id.
    """

    def __init__(self, offer: str) -> None:
        self._offer = offer
        self._said: dict[str, str] = {}
        self.is_over = False
        """Whether everything is installed."""

    def look(self, status: Status) -> Iterator[str]:
        """Yield lines about what changed.

        Raises:
            DsopsError: It is refused, or an install ended badly: the error that the agent named.
        """
        offer = status.offer
        if offer is None or offer.id != self._offer:
            return
        if offer.problem:
            raise _error(offer.problem, offer.hint)
        yield from self._news("", f"{offer.path}: {', '.join(map(_named, sorted(offer.bundles)))}")
        if not offer.is_reached:
            return
        found = states_by_place(status.models)
        states = {place: found.get(place) for place in offer.bundles}
        for place, state in states.items():
            if state is not None and state.target == offer.bundles[place]:
                yield from self._news(place, _sentence(place, state))
        self._check_end(states, offer.bundles)

    def _news(self, subject: str, line: str) -> Iterator[str]:
        if self._said.get(subject) != line:
            self._said[subject] = line
            yield line

    def _check_end(self, states: Mapping[str, State | None], wanted: Mapping[str, str]) -> None:
        mine = [state for place, state in states.items() if state is not None and state.target == wanted[place]]
        if len(mine) < len(wanted) or not all(state.install.is_final for state in mine):
            return
        for place, state in states.items():
            if state is not None and state.install is not Install.COMMITTED:
                what = f"{_named(place)} was not installed"
                raise _error(state.problem) if state.problem else AwaitedFailure(what, hint=_HINT)
        self.is_over = True


def install(config: Config, path: Path, say: Callable[[str], None]) -> None:
    """Offer ``path`` to the agent, and return once everything in it is installed.

    Raises:
        InvalidInput: There is nothing that can be offered at ``path``.
        Conflict: No agent runs with this configuration, or no directive wants the bundle.
        Interrupted: The user stopped following; the install goes on.
        DsopsError: What the agent refused, or how the install failed.
    """
    place = _check(path)
    _require_agent(config, Conflict)
    try:
        follower = Follower(leave(config.state, place))
    except OSError as error:
        raise StateDamaged(
            f"cannot write into {config.state}", why=str(error.strerror), hint="use the agent's user"
        ) from error
    try:
        say(f"{place} is offered to the agent")
        _follow(config, follower, say)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "you stopped following; the install goes on", hint="follow it with: dsops-agent status"
        ) from error


def _follow(config: Config, follower: Follower, say: Callable[[str], None]) -> None:
    while not follower.is_over:
        for line in follower.look(read_status(config.state / "status.json")):
            say(line)
        if not follower.is_over:
            _require_agent(config, AwaitedFailure)
            time.sleep(_LOOK_S)


def say(line: str) -> None:
    """Print one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _check(path: Path) -> Path:
    try:
        return _found(path)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links that lead in a circle
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        hint = "name a bundle file, or the folder of a kit, that this user can read"
        raise InvalidInput(f"cannot look at {str(path)[:_SHOWN]}", why=why, hint=hint) from error


def _found(path: Path) -> Path:
    place = path.resolve()
    if place.is_dir():
        if not (place / KIT_FILE).is_file():
            hint = "on the operator's side: dsops device kit DEVICE --out FOLDER"
            raise InvalidInput(f"{path} is not a kit", why=f"it has no {KIT_FILE}", hint=hint)
    elif not place.is_file():
        why = "it is neither a file nor a folder" if place.exists() else "it does not exist"
        raise InvalidInput(f"there is no bundle {path}", why=why, hint="name a bundle file, or the folder of a kit")
    return place


def _require_agent(config: Config, error: type[DsopsError]) -> None:
    if not is_running(config.state):
        raise error(
            "no agent runs with this configuration", why=f"nobody uses {config.state}", hint="start it: dsops-agent run"
        )


def _named(place: str) -> str:
    return f"challenger of {model_of(place)}" if is_challenger(place) else place


def _sentence(place: str, state: State) -> str:
    share = f" {int(state.progress * 10) * 10} %" if state.install is Install.FETCHING else ""
    waits = f", waits: {state.waiting}" if state.waiting else ""
    trouble = f" ({state.problem.message})" if state.problem else ""
    return f"{_named(place)}: {state.install.value}{share}{waits}{trouble}"


def _error(problem: Problem, hint: str = "") -> DsopsError:
    what, _, why = problem.message.partition(": ")
    return from_dict({"code": problem.code, "message": what, "why": why, "hint": hint})
