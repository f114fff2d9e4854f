"""Attacks at the largest distance from the honest mean that the spread of the honest submissions hides.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.deviations import squared_deviations

Direction = Literal["std", "unit", "sign"]


class Perturbation(Attack):
    """The honest mean a, moved along p by the largest gamma allowed; p is `std`, the negated standard deviation of each
    coordinate, `unit`, -a/||a||, or `sign`, -sign(a)."""

    direction: Direction = "std"

    @abstractmethod
    def gamma(self, deviations_HD: Tensor, p_D: Tensor) -> Tensor:
        """How far to go, float64, given the differences s_i - a of the honest submissions to their mean."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        mean_D = honest_HD.mean(dim=0)
        p_D = self._direction(honest_HD, mean_D)
        gamma = self.gamma(honest_HD - mean_D, p_D)
        moved_D = mean_D + gamma.to(mean_D.dtype) * p_D
        return torch.where((p_D != 0).any(), moved_D, mean_D).expand(view.byzantine, -1)

    def _direction(self, honest_HD: Tensor, mean_D: Tensor) -> Tensor:
        if self.direction == "sign":
            return -mean_D.sign()
        if self.direction == "unit":
            norm = torch.linalg.vector_norm(mean_D)
            return torch.where(norm > 0, -mean_D / norm, 0)
        if len(honest_HD) == 1:
            return torch.zeros_like(mean_D)
        return -(squared_deviations(honest_HD, mean_D) / (len(honest_HD) - 1)).sqrt().to(mean_D.dtype)
