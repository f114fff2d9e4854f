"""The coordinate-wise trimmed mean."""

import math

from torch import Tensor

from byzray.aggregators._trimming import Trimming
from byzray.submissions import Submissions


class TrimmedMean(Trimming):
    """Coordinate-wise mean without the f smallest and the f largest values.

    Needs f >= 1 and n >= 2f+1. No bound. kappa: 6f/(n-2f) (1 + f/(n-2f)).

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates. ICML 2018.
    """

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return submissions.mean_of_ranks(f, submissions.n - 2 * f)

    def kappa(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))
