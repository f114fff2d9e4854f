"""Phocas: the values nearest to the trimmed mean."""

from torch import Tensor

from byzray.aggregators._ranking import Trimming
from byzray.order_statistics import mean, mean_of_nearest


class Phocas(Trimming):
    """Coordinate-wise mean of the n-f values nearest to the trimmed mean.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Phocas: dimensional Byzantine-resilient stochastic gradient descent.
    arXiv:1805.09682, 2018.
    """

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        n = ranks_DK.shape[1]
        return mean_of_nearest(ranks_DK, mean(ranks_DK[:, f : n - f], dim=1), keep=n - f)
