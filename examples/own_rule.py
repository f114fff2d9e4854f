"""A rule of your own, in one file: own.yaml names it `own_rule:CenteredClipping`."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator


class CenteredClipping(Aggregator):
    """Centered clipping: a few steps from the median towards the mean of the clipped differences.

    Reference: S. P. Karimireddy, L. He, M. Jaggi. Learning from History for Byzantine Robust Optimization. ICML 2021.
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
