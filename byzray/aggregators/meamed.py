"""The mean around the median."""

from torch import Tensor

from byzray.aggregators._trimming import Trimming
from byzray.submissions import Submissions


class Meamed(Trimming):
    """Coordinate-wise mean of the n-f values nearest to the (lower) median: the mean around the median.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Generalized Byzantine-tolerant SGD. arXiv:1802.10116, 2018.
    """

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        n = submissions.n
        return submissions.mean_around((n - 1) // 2, 1, keep=n - f)
