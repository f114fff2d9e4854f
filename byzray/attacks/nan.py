"""Submissions that are no numbers.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import math

import torch
from torch import Tensor

from byzray.aggregators import Aggregator
from byzray.attacks.base import Attack


class Nan(Attack):
    """NaN in every coordinate: whether a rule survives a worker that computes nonsense."""

    name = "nan"

    def __call__(self, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:
        return torch.full_like(honest_HD[0], math.nan).expand(byzantine, -1)
