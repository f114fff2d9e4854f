"""Comparative gradient elimination: the submissions of least norm."""

from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.distances import smallest
from byzray.submissions import Submissions


class Cge(Selecting):
    """Mean of the n-f submissions of least norm, ties to the lowest index: comparative gradient elimination.

    Needs n >= f+1. No bound.

    Reference: S. Liu, N. Gupta, N. Vaidya. Approximate Byzantine Fault-Tolerance in Distributed Optimization.
    PODC 2021.
    """

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        # Norms that differ by rounding alone are compared as published; near consensus rounding decides.
        return smallest(submissions.published_norms_N(), submissions.n - f)

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= f + 1, f"n >= f+1 = {f + 1}; got n = {n}, f = {f}")
