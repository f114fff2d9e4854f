"""The coordinate-wise median."""

import math

from torch import Tensor

from byzray.aggregators._base import Aggregator, unmet
from byzray.submissions import Submissions


class Median(Aggregator):
    """Coordinate-wise median; of an even number of values, the lower of the two in the middle.

    Needs n >= 2f+1. Bound: 1 / sqrt(n-f). kappa: 4 (1 + f/(n-2f))^2.

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.ranks_DK((submissions.n - 1) // 2, 1)[:, 0]

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 1 / math.sqrt(n - f)

    def kappa(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 4 * (1 + f / (n - 2 * f)) ** 2
