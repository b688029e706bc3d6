"""Gates: what must be true of a wave before the next may begin. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dsops.states import Deployment


class Outcome(StrEnum):
    """What a gate says."""

    WAIT = "wait"  # the wave has not ended
    OPEN = "open"  # the wave has ended well enough
    HALT = "halt"  # too many deployments failed


@dataclass(frozen=True)
class Verdict:
    """A gate's answer, and why when it is a halt."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """How one deployment stands."""

    device: str
    state: Deployment
    code: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether it ended without the device running the bundle."""
        return self.state.is_final and not self.state.is_success and self.state is not Deployment.ABORTED


def judge(wave: Sequence[Result], before: Sequence[Result], max_failures: int) -> Verdict:
    """Judge a wave by what its devices reported.

    Args:
        wave: The running wave.
        before: Every deployment of earlier waves.
        max_failures: Failures over the whole rollout that are tolerated.
    """
    failed = [result for result in [*before, *wave] if result.is_failure]
    if len(failed) > max_failures:
        return Verdict(Outcome.HALT, describe(failed, max_failures))
    if all(result.state.is_final for result in wave):
        return Verdict(Outcome.OPEN)
    return Verdict(Outcome.WAIT)


def describe(failed: Sequence[Result], max_failures: int) -> str:
    """Return the reason for a halt in one line."""
    first = failed[0]
    cause = f" ({first.code})" if first.code else ""
    return f"{len(failed)} failed, {max_failures} allowed: {first.device} {first.state}{cause}"
