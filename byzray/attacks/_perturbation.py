"""Attacks at the largest distance from the honest mean that the spread of the honest submissions hides.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.deviations import Spread

Direction = Literal["std", "unit", "sign"]


class Perturbation(Attack):
    """The honest mean a, moved along p by the largest gamma allowed; p is `std`, the negated standard deviation of each
    coordinate, `unit`, -a/||a||, or `sign`, -sign(a)."""

    direction: Direction = "std"

    @abstractmethod
    def gamma(self, deviations_HD: Tensor, p_D: Tensor) -> Tensor:
        """How far to go, float64, given the differences s_i - a of the honest submissions to their mean."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        honest = view.spread(honest_HD)
        mean_D, p_D = honest.mean_D, self._direction(honest)
        gamma = self.gamma(honest_HD - mean_D, p_D)
        moved_D = mean_D + gamma.to(mean_D.dtype) * p_D
        return torch.where((p_D != 0).any(), moved_D, mean_D).expand(view.byzantine, -1)

    def _direction(self, honest: Spread) -> Tensor:
        mean_D = honest.mean_D
        if self.direction == "sign":
            return -mean_D.sign()
        if self.direction == "unit":
            norm = torch.linalg.vector_norm(mean_D)
            return torch.where(norm > 0, -mean_D / norm, 0)
        return -honest.deviation_D() if honest.size > 1 else torch.zeros_like(mean_D)
