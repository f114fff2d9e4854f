"""Rules that treat every coordinate by itself.

Shapes in names: N submissions, D parameters.
"""

import math

from torch import Tensor

from byzray.aggregators.base import Aggregate, Aggregator, unmet
from byzray.aggregators.order import lower_median, mean_of_nearest, order_statistics, sort_columns


class Median(Aggregator):
    """Coordinate-wise median; of an even number of values, the lower of the two in the middle.

    Needs n >= 2f+1. Bound: 1 / sqrt(n-f).

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    name = "median"

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        return Aggregate(lower_median(gradients_ND))

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1, got n = {n}, f = {f}")

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 1 / math.sqrt(n - f)


class _Trimming(Aggregator):
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

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        return Aggregate(order_statistics(gradients_ND, f, len(gradients_ND) - 2 * f).mean(dim=1))


class Phocas(_Trimming):
    """Coordinate-wise mean of the n-f values nearest to the trimmed mean.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Phocas: dimensional Byzantine-resilient stochastic gradient descent.
    arXiv:1805.09682, 2018.
    """

    name = "phocas"

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        n = len(gradients_ND)
        sorted_DN = sort_columns(gradients_ND)
        return Aggregate(mean_of_nearest(sorted_DN, sorted_DN[:, f : n - f].mean(dim=1), keep=n - f))


class Meamed(_Trimming):
    """Coordinate-wise mean of the n-f values nearest to the (lower) median: the mean around the median.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Generalized Byzantine-tolerant SGD. arXiv:1802.10116, 2018.
    """

    name = "meamed"

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        n = len(gradients_ND)
        sorted_DN = sort_columns(gradients_ND)
        return Aggregate(mean_of_nearest(sorted_DN, sorted_DN[:, (n - 1) // 2], keep=n - f))
