"""A rule of your own, in one file: own.yaml names it `own_rule:CenteredClipping`."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator


class CenteredClipping(Aggregator):
    """Centered clipping without history: a few steps from the median towards the mean of the clipped differences.

    This is not the rule of the paper that it is named after, *Learning from History for Byzantine Robust Optimization*
    (S. P. Karimireddy, L. He, M. Jaggi, ICML 2021). There each step starts from the aggregate of the step before, from
    which its guarantees follow. A rule here is a pure function of the submissions, so this one starts from their median
    anew at every step, and has none of these guarantees.
    """

    radius: PositiveFloat = 10.0
    iterations: PositiveInt = 3

    def aggregate(self, gradients_ND: Tensor, f: int) -> Aggregate:
        center_D = gradients_ND.nan_to_num().median(dim=0).values
        for _ in range(self.iterations):
            differences_ND = gradients_ND.nan_to_num() - center_D
            norms_N = torch.linalg.vector_norm(differences_ND, dim=1, keepdim=True)
            center_D = center_D + (differences_ND * (self.radius / norms_N).clamp(max=1)).mean(dim=0)
        return Aggregate(center_D)

    def check(self, n: int, f: int) -> str | None:
        return None if n >= 2 * f + 1 else f"needs n >= 2f+1, got n = {n}, f = {f}"
