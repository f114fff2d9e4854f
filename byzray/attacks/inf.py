"""Submissions that are infinite.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import math

import torch
from torch import Tensor

from byzray.attacks._base import Attack, View


class Inf(Attack):
    """Infinity in every coordinate: whether a rule survives a worker that overflows."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return torch.full_like(honest_HD[0], math.inf).expand(view.byzantine, -1)
