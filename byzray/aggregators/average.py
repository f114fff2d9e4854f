"""The mean of all submissions: no robustness, and the yardstick of every rule."""

from collections.abc import Callable

import torch
from torch import Tensor

from byzray.aggregators.base import Aggregate, SelectingAggregator
from byzray.aggregators.line import Line


class Average(SelectingAggregator):
    """Mean of all submissions; one Byzantine worker sets it to any value.

    Needs n >= 1. No bound.
    """

    name = "average"

    def select(self, gradients_ND: Tensor, f: int) -> Tensor:
        return torch.arange(len(gradients_ND), device=gradients_ND.device)

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        return Aggregate(gradients_ND.mean(dim=0), self.select(gradients_ND, f))

    def harm_along(self, line: Line, f: int) -> Callable[[Tensor], Tensor]:
        return lambda x: line.harm_of_mean(torch.arange(line.n, device=x.device), x)
