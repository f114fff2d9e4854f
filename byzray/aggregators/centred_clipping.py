"""Centred clipping.

Shapes in names: N submissions, D parameters.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from byzray.aggregators._base import Aggregate, Aggregator, unmet
from byzray.distances import norms
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Submissions, combined


class CentredClipping(Aggregator):
    """The previous aggregate v, moved by the mean of the differences to it, each clipped to the norm `tau`.

    v <- v + 1/n sum_i (x_i - v) min(1, tau / ||x_i - v||), `iterations` times; v is 0 before the first step, and the
    state of the rule. The radius is absolute: momentum without dampening makes submissions 1/(1 - mu) times larger, and
    asks for a larger one. A submission that is not finite moves nothing, and counts in n.

    Needs n >= 2f+1. No bound, and no kappa: ||v - v before|| <= iterations * tau whatever the submissions.

    Reference: S. P. Karimireddy, L. He, M. Jaggi. Learning from History for Byzantine Robust Optimization. ICML 2021.
    """

    tau: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 10.0
    iterations: PositiveInt = 1

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"previous": torch.zeros_like(like_D)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        rows_ND, centre_D = submissions.rows_ND, state["previous"]
        for _ in range(self.iterations):
            differences_ND = rows_ND - centre_D
            norms_N = norms(differences_ND)
            # A difference of 0 stays as it is, one that is not finite is 0.
            factors_N = (self.tau / norms_N).clamp(max=1).nan_to_num(nan=1.0)
            centre_D = centre_D + combined(factors_N[None] / submissions.n, differences_ND)[0]
        return Aggregate(centre_D), {"previous": centre_D}

    def check(self, n: int, f: int) -> str | None:
        return super().check(n, f) or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
