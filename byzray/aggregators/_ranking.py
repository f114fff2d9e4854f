"""Shared parts of coordinate-wise rules.

Shapes in names: N submissions, D parameters, K ranks.
"""

from abc import abstractmethod

from torch import Tensor

from byzray.aggregators._base import Aggregator, unmet
from byzray.submissions import Submissions


class Ranking(Aggregator):
    """A rule that needs of every coordinate only the values of consecutive ranks, by default of all."""

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        """The first of the ranks needed, from 0 on, and how many."""
        return 0, n

    @abstractmethod
    def combine(self, ranks_DK: Tensor, f: int) -> Tensor:
        """The aggregate (D,), given the values of those ranks in ascending order."""

    def aggregate(self, submissions: Submissions, f: int) -> Tensor:
        return self.combine(submissions.ranks_DK(*self.ranks(submissions.n, f)), f)


class Trimming(Ranking):
    """A rule that drops f values at one end or at both."""

    def check(self, n: int, f: int) -> str | None:
        return (
            super().check(n, f)
            or unmet(f >= 1, f"f >= 1; got f = {f}")
            or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
        )
