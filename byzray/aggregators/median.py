"""The coordinate-wise median."""

import math

from torch import Tensor

from byzray.aggregators._base import unmet
from byzray.aggregators._ranking import Ranking


class Median(Ranking):
    """Coordinate-wise median; of an even number of values, the lower of the two in the middle.

    Needs n >= 2f+1. Bound: 1 / sqrt(n-f). kappa: 4 (1 + f/(n-2f))^2.

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        return (n - 1) // 2, 1

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        return ranks_DK[:, 0]

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 1 / math.sqrt(n - f)

    def kappa(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 4 * (1 + f / (n - 2 * f)) ** 2
