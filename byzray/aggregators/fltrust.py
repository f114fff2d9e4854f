"""FLTrust.

Shapes in names: N submissions, D parameters.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor

from byzray.aggregators._base import Aggregate, Aggregator
from byzray.distances import FURTHEST
from byzray.order_statistics import BLOCK
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Submissions


class FlTrust(Aggregator):
    """Mean of the submissions, scaled to the norm of the server's own, weighed by how well they agree with it.

    r is what a worker at the server submits, which has `root` training examples to itself; trust_i = max(0, cos(x_i,
    r)), and the aggregate is sum_i trust_i ||r||/||x_i|| x_i / sum_i trust_i. A submission that is 0 or not finite is
    not trusted; if none is, the aggregate is 0.

    Needs n >= 1. No bound, and no kappa: r has an error of its own, the larger the smaller `root`.

    Reference: X. Cao, M. Fang, J. Liu, N. Gong. FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping.
    NDSS 2021.
    """

    depends_on_step = True

    root: PositiveInt = 100

    @property
    def root_examples(self) -> int:
        return self.root

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        rows_ND, root_D = submissions.rows_ND, step.root_submission()
        norm = torch.linalg.vector_norm(root_D, dtype=torch.float64)
        norms_N, cosines_N = _compared(rows_ND, root_D / norm.to(root_D.dtype))
        ratios_N = norm / norms_N
        known_N = (norms_N > 0) & (norms_N < FURTHEST) & (ratios_N < torch.finfo(rows_ND.dtype).max) & (norm > 0)
        trust_N = torch.where(known_N, cosines_N.clamp(0, 1), 0)
        total = trust_N.sum()
        weights_N = torch.where(trust_N > 0, trust_N * ratios_N / total, 0)
        return Aggregate(lambda: submissions.combine(weights_N), weights_N=weights_N), state


def _compared(rows_ND: Tensor, unit_D: Tensor) -> tuple[Tensor, Tensor]:
    """The norms (N,) of some submissions and their cosines with a vector of norm 1, float64; NaN of what is not finite.

    Submissions are divided by their largest coordinate, as squares of large and of small ones leave the range.
    """
    largest_N = rows_ND.abs().amax(dim=1).double()
    products_N, squares_N = torch.zeros_like(largest_N), torch.zeros_like(largest_N)
    for rows_NB, unit_B in zip(rows_ND.split(BLOCK, dim=1), unit_D.split(BLOCK), strict=True):
        scaled_NB = rows_NB.double() / largest_N[:, None]
        products_N += scaled_NB @ unit_B.double()
        squares_N += scaled_NB.square().sum(dim=1)
    lengths_N = squares_N.sqrt()
    return lengths_N * largest_N, products_N / lengths_N
