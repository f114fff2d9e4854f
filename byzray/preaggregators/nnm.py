"""Nearest-neighbour mixing.

Shapes in names: N submissions.
"""

import torch
from torch import Tensor

from byzray.preaggregators._base import PreAggregator
from byzray.step import Step
from byzray.submissions import Submissions


class Nnm(PreAggregator):
    """Each submission becomes the mean of the n-f nearest to it, itself included: nearest-neighbour mixing.

    Ties go to the submission itself, then to the lowest index.

    Needs n >= 2f+1. kappa: 8f/(n-f) (kappa of what follows + 1).

    Reference: Y. Allouah, S. Farhadkhani, R. Guerraoui, N. Gupta, R. Pinot, J. Stephan. Fixing by Mixing: A Recipe for
    Optimal Byzantine ML under Heterogeneity. AISTATS 2023.
    """

    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        distances_NN, keep = submissions.distances_NN(), submissions.n - step.f
        # Before its own copies, which are as near and make the same mean.
        nearest_NK = distances_NN.clone().fill_diagonal_(-1).argsort(dim=1, stable=True)[:, :keep]
        return torch.zeros_like(distances_NN).scatter_(1, nearest_NK, 1 / keep)

    def check(self, n: int, f: int) -> str | None:
        return None if n >= 2 * f + 1 else f"needs n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}"

    def kappa(self, kappa: float, n: int, f: int) -> float:
        return 8 * f / (n - f) * (kappa + 1)
