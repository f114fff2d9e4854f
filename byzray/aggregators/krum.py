"""Krum and Multi-Krum: the submissions with the nearest neighbours.

Shapes in names: N submissions, D parameters.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from byzray.aggregators.base import DistanceSelectingAggregator, unmet
from byzray.aggregators.distances import smallest


class _Scoring(DistanceSelectingAggregator):
    squared: bool = False
    neighbours: Literal["n-f-1", "n-f-2"] = "n-f-1"

    @abstractmethod
    def selected(self, n: int, f: int) -> int:
        """How many of the lowest scores are averaged."""

    def select_by_distances(self, distances_NN: Tensor, f: int) -> Tensor:
        n = len(distances_NN)
        if self.squared:
            distances_NN = distances_NN.square()
        scores_N = krum_scores(distances_NN, n - f - (1 if self.neighbours == "n-f-1" else 2))
        return smallest(scores_N, self.selected(n, f))

    def check(self, n: int, f: int) -> str | None:
        m = self.selected(n, f)
        return (
            super().check(n, f)
            or unmet(n >= 2 * f + 3, f"n >= 2f+3, got n = {n}, f = {f}")
            or unmet(m <= n - f - 2, f"m <= n-f-2 = {n - f - 2}, got m = {m}")
        )

    def bound(self, n: int, f: int) -> float:
        return math.nan if self.check(n, f) else krum_bound(n, f)


class MultiKrum(_Scoring):
    """Mean of the m submissions with the lowest Krum scores, ties to the lowest index.

    The score of a submission is the sum of its distances to its n-f-1 nearest others. That, and m = n-f-2, is what the
    code published with El-Mhamdi et al. computes; Krum's own paper scores with `squared` distances to the n-f-2 nearest
    `neighbours`.

    Needs n >= 2f+3 and 1 <= m <= n-f-2 (the default m). Bound: 1 / sqrt(2 (n-f + f (n + f (n-f-2) - 2) / (n-2f-2))).

    Reference: P. Blanchard, E.-M. El-Mhamdi, R. Guerraoui, J. Stainer. Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent. NeurIPS 2017.
    """

    name = "multi-krum"

    m: Annotated[int, Field(ge=1)] | None = None

    def selected(self, n: int, f: int) -> int:
        return n - f - 2 if self.m is None else self.m


class Krum(_Scoring):
    """The submission with the lowest Krum score: Multi-Krum with m = 1.

    Needs n >= 2f+3. Bound: as Multi-Krum.

    Reference: P. Blanchard, E.-M. El-Mhamdi, R. Guerraoui, J. Stainer. Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent. NeurIPS 2017.
    """

    name = "krum"

    def selected(self, n: int, f: int) -> int:
        return 1


def krum_scores(distances_NN: Tensor, neighbours: int) -> Tensor:
    """The sum of the distances from every submission to its nearest others, (N,)."""
    to_others_NN = distances_NN.clone().fill_diagonal_(math.inf)
    return to_others_NN.sort(dim=1).values[:, :neighbours].sum(dim=1)


def krum_bound(n: int, f: int) -> float:
    """The variance-norm bound of the Krum family."""
    return 1 / math.sqrt(2 * (n - f + f * (n + f * (n - f - 2) - 2) / (n - 2 * f - 2)))
