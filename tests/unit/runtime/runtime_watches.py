"""A watch for tests that are not about watching."""

from collections.abc import Sequence

from dsops_agent.runtime.answer import Answer, Exchange
from dsops_agent.runtime.swap import Totals


class Witness:
    """A watch that remembers what it was told; a broken one raises when it looks at something."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.answers = 0
        self.failures = 0
        self.unobserved = 0
        self.seen: list[Exchange] = []
        self._is_broken = is_broken

    @property
    def totals(self) -> Totals:
        return Totals(self.answers, self.failures)

    @property
    def requests(self) -> list[str]:
        return [exchange.request_id for exchange in self.seen]

    def answered(self, answer: Answer) -> None:
        self.answers += 1

    def failed(self) -> None:
        self.failures += 1

    def observe(self, exchanges: Sequence[Exchange]) -> None:
        if self._is_broken:
            raise RuntimeError("this watch is broken")
        self.seen.extend(exchanges)

    def shed(self, frames: int) -> None:
        self.unobserved += frames
