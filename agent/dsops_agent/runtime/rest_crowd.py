"""Who may stay connected to REST: so many, of whom one user has three quarters at most. Pure.

As on the direct socket, a connection on which nothing is asked goes for the next when there are too many: whoever keeps
connections open keeps nobody out, and programs connect again when they ask.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

from dsops.errors import QueueFull
from dsops_agent.runtime.shares import most_of

PLACES = 64


class Guest(Protocol):
    """A connection."""

    @property
    def user(self) -> str:
        """Who is at its other end; over loopback the kernel takes milliseconds to say so."""
        ...

    @property
    def rests_since_s(self) -> float | None:
        """Since when nothing is asked on it; None while something is."""
        ...


def makes_way(newcomer: Guest, others: Collection[Guest], places: int = PLACES) -> Guest | None:
    """Return which of the others has to go for a newcomer; None when there is room.

    Raises:
        QueueFull: The newcomer has to, as something is asked on each of them.
    """
    if len(others) < most_of(places):  # so nobody has too many
        return None
    theirs = [one for one in others if one.user == newcomer.user]
    if len(theirs) >= most_of(places):
        return _longest_resting(theirs, f"{newcomer.user} has {len(theirs)} of {places}, and asks on each")
    if len(others) >= places:
        return _longest_resting(others, f"{places} are, and ask")
    return None


def _longest_resting(guests: Iterable[Guest], why: str) -> Guest:
    resting = [(since_s, one) for one in guests if (since_s := one.rests_since_s) is not None]
    if not resting:
        raise QueueFull("too many programs are connected", why=why, hint="keep a connection, and ask on it again")
    return min(resting, key=lambda found: found[0])[1]
