"""Krum's scores: who has near neighbours.

Shapes in names: N submissions.
"""

import math
from abc import abstractmethod
from typing import Literal

from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.distances import smallest
from byzray.submissions import Submissions


class Scoring(Selecting):
    """A rule that averages the submissions of lowest score: the sum of the distances to the nearest others."""

    squared: bool = False
    neighbours: Literal["n-f-1", "n-f-2"] = "n-f-1"

    @abstractmethod
    def selected(self, n: int, f: int) -> int:
        """How many of the lowest scores are averaged."""

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        n, distances_NN = submissions.n, submissions.distances_NN()
        if self.squared:
            distances_NN = distances_NN.square()
        scores_N = krum_scores(distances_NN, n - f - (1 if self.neighbours == "n-f-1" else 2))
        return smallest(scores_N, self.selected(n, f))

    def check(self, n: int, f: int) -> str | None:
        m = self.selected(n, f)
        return (
            super().check(n, f)
            or unmet(n >= 2 * f + 3, f"n >= 2f+3 = {2 * f + 3}; got n = {n}, f = {f}")
            or unmet(m <= n - f - 2, f"m <= n-f-2 = {n - f - 2}; got m = {m}")
        )

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else krum_bound(n, f)


def krum_scores(distances_NN: Tensor, neighbours: int) -> Tensor:
    """The sum of the distances from every submission to its nearest others, (N,)."""
    to_others_NN = distances_NN.clone().fill_diagonal_(math.inf)
    return to_others_NN.sort(dim=1).values[:, :neighbours].sum(dim=1)


def krum_bound(n: int, f: int) -> float:
    """The variance-norm bound of the Krum family."""
    return 1 / math.sqrt(2 * (n - f + f * (n + f * (n - f - 2) - 2) / (n - 2 * f - 2)))
