"""Bets against a hypothesis about a mean: an e-process that one may look at after every value.

The hybrid of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024, section
4), with a plug-in bet that is learned from the values before. Under the hypothesis the expected wealth is at most 1 at
any time, so wealth of ``1 / alpha`` is seen with a probability of at most ``alpha`` (Ville's inequality).
"""

import math


class Bet:
    """A gambler who wins when the mean of values in [low, high] is above ``limit``.

    Attributes:
        n: Values so far.
        log_wealth: Logarithm of the wealth, 0 at first.
    """

    def __init__(self, limit: float, low: float = 0.0, high: float = 1.0) -> None:
        if not low < limit < high:
            raise ValueError(f"the limit {limit} is not between {low} and {high}")
        self._limit = limit
        self._most = 0.5 / (limit - low)
        self._usual = 0.05 * (high - low) ** 2
        self._range = (low, high)
        self._sum = 0.0
        self._squares = 0.0
        self.n = 0
        self.log_wealth = 0.0

    def add(self, value: float) -> float:
        """Take a value; return the logarithm of the wealth."""
        low, high = self._range
        if not low <= value <= high:
            raise ValueError(f"{value} is not between {low} and {high}")
        over = value - self._limit
        mean, variance = self._sum / (self.n + 1), (self._squares + self._usual) / (self.n + 1)
        stake = min(self._most, max(0.0, mean / variance))
        self.log_wealth += math.log1p(stake * over)
        self._sum += over
        self._squares += over * over
        self.n += 1
        return self.log_wealth
