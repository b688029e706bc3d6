"""What a caller sent, before anything was made of it: a challenger makes its own input of the same."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from dsops.forms import Form
from dsops_agent.runtime.litert import Array

Said = TypeVar("Said", bound=Hashable)
Found = TypeVar("Found")
MOST_WORDS = 64


class Words(Generic[Said, Found]):
    """What was found out about requests in these very words, of a few that came last. Safe to call from threads."""

    def __init__(self) -> None:
        self._found: dict[Said, Found] = {}

    def get(self, words: Said) -> Found | None:
        """Return what was found out, or None when nothing is known."""
        return self._found.get(words)

    def keep(self, words: Said, found: Found) -> None:
        """Keep what was found out; callers who never ask twice alike make room for each other."""
        if len(self._found) >= MOST_WORDS:
            self._found = {}  # another one: a thread that still looks into the old one is right, too
        self._found[words] = found


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
