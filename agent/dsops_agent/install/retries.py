"""What could not be done and is tried again, ever more seldom. Pure."""

from dataclasses import dataclass, field

_FACTOR = 4
"""How much longer each pause is than the one before: a try reads whole bundles."""


@dataclass
class Retries:
    """When each model is tried again.

    Attributes:
        first_s: The first pause.
        most_s: The longest one.
    """

    first_s: float
    most_s: float
    _due: dict[str, tuple[float, float]] = field(init=False, default_factory=dict)

    @property
    def next_s(self) -> float | None:
        """When :meth:`take` has something."""
        return min((due_s for due_s, _ in self._due.values()), default=None)

    def later(self, model: str, now_s: float) -> None:
        """Try a model again after the first pause, unless it is waiting already."""
        self._due.setdefault(model, (now_s + self.first_s, self.first_s))

    def take(self, now_s: float) -> list[str]:
        """Return the models whose moment has come; each comes again after a longer pause, until :meth:`done`."""
        late = [model for model, (due_s, _) in self._due.items() if due_s <= now_s]
        for model in late:
            pause_s = min(self.most_s, self._due[model][1] * _FACTOR)
            self._due[model] = (now_s + pause_s, pause_s)
        return late

    def done(self, model: str) -> bool:
        """Take note that nothing is left to do for a model; return whether it was waiting."""
        return self._due.pop(model, None) is not None
