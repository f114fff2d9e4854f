"""Phocas: the values nearest to the trimmed mean."""

from torch import Tensor

from byzray.aggregators._trimming import Trimming
from byzray.submissions import Submissions


class Phocas(Trimming):
    """Coordinate-wise mean of the n-f values nearest to the trimmed mean.

    Needs f >= 1 and n >= 2f+1. No bound.

    Reference: C. Xie, O. Koyejo, I. Gupta. Phocas: dimensional Byzantine-resilient stochastic gradient descent.
    arXiv:1805.09682, 2018.
    """

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        n = submissions.n
        return submissions.mean_around(f, n - 2 * f, keep=n - f)
