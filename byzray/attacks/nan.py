"""Submissions that are no numbers.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import math

import torch
from torch import Tensor

from byzray.attacks._base import Attack, View


class Nan(Attack):
    """NaN in every coordinate: whether a rule survives a worker that computes nonsense."""

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        return torch.full_like(honest_HD[0], math.nan).expand(view.byzantine, -1)
