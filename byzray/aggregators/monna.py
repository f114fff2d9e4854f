"""MoNNA: the nearest neighbours of one submission."""

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from byzray.aggregators._base import Selecting, unmet
from byzray.distances import smallest
from byzray.submissions import Submissions


class Monna(Selecting):
    """Mean of the n-f submissions nearest to that of `reference`, itself included, ties to the lowest index.

    The reference has to be honest: the rule is meant for peers, each of which trusts itself. In the simulation of a
    server submission 0 is honest for the sole reason that honest workers come first, so what it shows here is an ideal.

    Needs n >= 2f+1 and n > reference. No bound.

    Reference: S. Farhadkhani, R. Guerraoui, N. Gupta, L.-N. Hoang, R. Pinot, J. Stephan. Robust Collaborative Learning
    with Linear Gradient Overhead. ICML 2023.
    """

    reference: NonNegativeInt = 0

    def rows(self, submissions: Submissions, f: int) -> Tensor:
        distances_N = submissions.distances_from(self.reference)
        first_N = torch.arange(submissions.n, device=submissions.device) == self.reference
        return smallest(torch.where(first_N, -1, distances_N), submissions.n - f)

    def check(self, n: int, f: int) -> str | None:
        return (
            super().check(n, f)
            or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
            or unmet(n > self.reference, f"n > reference; got n = {n}, reference = {self.reference}")
        )
