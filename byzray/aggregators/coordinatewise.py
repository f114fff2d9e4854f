"""Rules that treat every coordinate by itself.

Shapes in names: N submissions, D parameters, K ranks.
"""

import math
from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from byzray.aggregators.base import Aggregate, Aggregator, unmet
from byzray.aggregators.line import Line
from byzray.aggregators.order import mean, mean_of_nearest, order_statistics


class _Ranking(Aggregator):
    """A rule that needs of every coordinate only the values of consecutive ranks, by default of all."""

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        """The first of the ranks needed, from 0 on, and how many."""
        return 0, n

    @abstractmethod
    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        """The aggregate (D,), given the values of those ranks in ascending order."""

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        return Aggregate(self.combine(order_statistics(gradients_ND, *self.ranks(len(gradients_ND), f)), f))

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        ranks = line.order_statistics(*self.ranks(line.n, f))
        return lambda x: line.harm(self.combine(ranks(x), f))


class Median(_Ranking):
    """Coordinate-wise median; of an even number of values, the lower of the two in the middle.

    Needs n >= 2f+1. Bound: 1 / sqrt(n-f).

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    name = "median"

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        return (n - 1) // 2, 1

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        return ranks_DK[:, 0]

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1, got n = {n}, f = {f}")

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 1 / math.sqrt(n - f)


class _Trimming(_Ranking):
    def check(self, n: int, f: int) -> str | None:
        return (
            super().check(n, f)
            or unmet(f >= 1, f"f >= 1, got f = {f}")
            or unmet(n >= 2 * f + 1, f"n >= 2f+1, got n = {n}, f = {f}")
        )


class TrimmedMean(_Trimming):
    """Coordinate-wise mean without the f smallest and the f largest values.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    name = "trimmed-mean"

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        return f, n - 2 * f

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        return mean(ranks_DK, dim=1)


class Phocas(_Trimming):
    """Coordinate-wise mean of the n-f values nearest to the trimmed mean.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Phocas: dimensional Byzantine-resilient stochastic gradient descent.
    arXiv:1805.09682, 2018.
    """

    name = "phocas"

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        n = ranks_DK.shape[1]
        return mean_of_nearest(ranks_DK, mean(ranks_DK[:, f : n - f], dim=1), keep=n - f)


class Meamed(_Trimming):
    """Coordinate-wise mean of the n-f values nearest to the (lower) median: the mean around the median.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Generalized Byzantine-tolerant SGD. arXiv:1802.10116, 2018.
    """

    name = "meamed"

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        n = ranks_DK.shape[1]
        return mean_of_nearest(ranks_DK, ranks_DK[:, (n - 1) // 2], keep=n - f)
