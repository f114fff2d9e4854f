"""The mean around the median."""

from torch import Tensor

from byzray.aggregators._ranking import Trimming
from byzray.order_statistics import mean_of_nearest


class Meamed(Trimming):
    """Coordinate-wise mean of the n-f values nearest to the (lower) median: the mean around the median.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Generalized Byzantine-tolerant SGD. arXiv:1802.10116, 2018.
    """

    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        n = ranks_DK.shape[1]
        return mean_of_nearest(ranks_DK, ranks_DK[:, (n - 1) // 2], keep=n - f)
