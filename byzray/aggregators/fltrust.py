"""FLTrust.

Shapes in names: N submissions, D parameters.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor

from byzray.aggregators._base import Aggregate, Aggregator
from byzray.order import BLOCK
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
        root_D, norms_N = step.root_submission(), submissions.norms_N()
        norm = torch.linalg.vector_norm(root_D, dtype=torch.float64)
        known_N = (norms_N > 0) & norms_N.isfinite() & (norm > 0)
        cosines_N = _products(submissions.rows_ND, root_D) / (norms_N * norm)
        trust_N = torch.where(known_N, cosines_N.clamp(0, 1), 0)
        total = trust_N.sum()
        weights_N = torch.where(trust_N > 0, trust_N * norm / norms_N / total, 0)
        return Aggregate(lambda: submissions.combine(weights_N), weights_N=weights_N), state


def _products(rows_ND: Tensor, root_D: Tensor) -> Tensor:
    """The inner products (N,) float64 with a vector: those of large submissions leave the range of single precision."""
    parts = zip(rows_ND.split(BLOCK, dim=1), root_D.split(BLOCK), strict=True)
    return torch.stack([rows_NB.double() @ root_B.double() for rows_NB, root_B in parts]).sum(dim=0)
