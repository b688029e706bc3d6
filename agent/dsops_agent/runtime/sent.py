"""What a caller sent, before anything was made of it: a challenger makes its own input of the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dsops.forms import Form
from dsops_agent.runtime.litert import Array


@dataclass(frozen=True)
class Sent:
    """One input of a request, [n, ...], in the type that was sent."""

    form: Form
    values: Array


SentInputs: TypeAlias = Mapping[str, Sent]
"""Every input of a request, by name."""


def frames_in(sent: SentInputs) -> int:
    """Return how many frames a request has."""
    return len(next(iter(sent.values())).values)
