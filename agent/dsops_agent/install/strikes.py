"""Whose fault it is that the inference process died, again and again. Pure.

A death counts against every bundle that was in flight: against one when its thread is known to have crashed or hung,
or when nothing else ran. Where several ran, each gets a strike, and of those that have too many the one that was
activated last is taken: what changed last is the likeliest cause. If it was another one, that has its strikes still,
and the next death is its end. A death while nothing ran is nobody's.

A strike counts for a while; against a bundle on trial it counts for as long as its trial lasts, which may be longer.

A hang is stronger evidence than a crash: it is known which frame did not come back, and everybody who asked that model
has waited for it. So it counts by what it cost them, :data:`HUNG_S` seconds in all are too many, provided that there is
a release to go back to: where there is none, a model that hangs at times is better than no model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsops_agent.install.ports import Death, Suspect

HUNG_S = 10.0
"""So many seconds of frames that did not come back are too many, in one death or in several."""


@dataclass
class Strikes:
    """The deaths of late, by the bundles that were in flight.

    Attributes:
        most: So many within ``span_s`` seconds are too many, and so many in one trial.
        span_s: How long a strike counts.
    """

    most: int
    span_s: float
    _times: dict[Suspect, list[float]] = field(default_factory=dict)

    @property
    def times(self) -> Mapping[Suspect, list[float]]:
        """When each bundle that was in flight got its strikes."""
        return self._times

    def take_up(self, times: Mapping[Suspect, list[float]]) -> None:
        """Go on with strikes that were counted before."""
        self._times = {suspect: list(found) for suspect, found in times.items()}

    def add(
        self,
        death: Death,
        now_s: float,
        newness: Callable[[Suspect], int],
        *,
        is_last: Callable[[Suspect], bool],
        on_trial: Callable[[Suspect], int] = lambda _: 0,
    ) -> Suspect | None:
        """Count a death; return the bundle that has too many now, if one has.

        Args:
            death: What is known of it.
            now_s: When.
            newness: Tells the order in which bundles were activated.
            is_last: Tells whether there is no release to go back to from a bundle.
            on_trial: Tells how many strikes a bundle got on its trial, by this death too; 0 of one that is on none.
        """
        since_s = now_s - self.span_s
        kept = {suspect: [at_s for at_s in times if at_s > since_s] for suspect, times in self._times.items()}
        self._times = {suspect: times for suspect, times in kept.items() if times}
        for suspect in set(death.suspects):
            self._times.setdefault(suspect, []).extend([now_s] * self.weight(death, is_last=is_last(suspect)))
        guilty = [one for one in set(death.suspects) if max(len(self._times[one]), on_trial(one)) >= self.most]
        if not guilty:
            return None
        return max(guilty, key=lambda one: (newness(one), one.model))

    def weight(self, death: Death, *, is_last: bool) -> int:
        """Return how many strikes a death is; ``is_last`` if there is no release to go back to."""
        if is_last:
            return 1
        return min(self.most, max(1, math.ceil(self.most * death.hung_s / HUNG_S)))

    def forget(self, suspect: Suspect) -> None:
        """Take note that a bundle is out of service, for good: a pardon begins at nothing."""
        self._times.pop(suspect, None)
