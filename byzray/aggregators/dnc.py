"""Divide and conquer.

Shapes in names: N submissions, K coordinates.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from byzray.aggregators._base import Aggregate, Aggregator, unmet
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Submissions


class Dnc(Aggregator):
    """Mean of the submissions that lie least along the direction in which they differ most: divide and conquer.

    In each of `iterations` rounds so many `coordinates` are drawn; v is the first right singular vector of the finite
    submissions there, less their mean; the n - floor(`c` f) of the least squared product with v are kept. The aggregate
    is the mean, over all coordinates, of those kept in every round, or if there are none of those kept most often.

    Needs n >= 2f+1. No bound and no kappa: only one direction is filtered.

    Reference: V. Shejwalkar, A. Houmansadr. Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning. NDSS 2021.
    """

    depends_on_step = True

    iterations: PositiveInt = 1
    coordinates: PositiveInt = 10_000
    c: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        finite_N = submissions.norms_N().isfinite()
        times_N = torch.zeros_like(finite_N, dtype=torch.float64)
        for iteration in range(self.iterations):
            times_N += self._kept(submissions, step, iteration, finite_N)
        chosen_N = ((times_N == times_N.max()) & finite_N).double()
        weights_N = chosen_N / chosen_N.sum().clamp(min=1)
        return Aggregate(lambda: submissions.combine(weights_N), weights_N=weights_N), state

    def _kept(self, submissions: Submissions, step: Step, iteration: int, finite_N: Tensor) -> Tensor:
        """Which submissions a round keeps, (N,) bool."""
        d = submissions.rows_ND.shape[1]
        if self.coordinates < d:
            drawn = step.generator("dnc", iteration).choice(d, self.coordinates, replace=False)
            positions_K = torch.from_numpy(drawn).sort().values.to(submissions.device)
            submissions = submissions.columns(positions_K)
        rows_NK = torch.where(finite_N[:, None], submissions.rows_ND, 0).double()
        count = finite_N.sum().clamp(min=1)
        centred_NK = torch.where(finite_N[:, None], rows_NK - rows_NK.sum(dim=0) / count, 0)
        _, vectors_NN = torch.linalg.eigh(centred_NK @ centred_NK.T)
        # The squared products with v are these, but for a common factor.
        scores_N = torch.where(finite_N, vectors_NN[:, -1].square(), math.inf)
        keep = submissions.n - math.floor(self.c * step.f)
        ranks_N = scores_N.argsort(stable=True).argsort(stable=True)
        return (ranks_N < keep) & finite_N

    def check(self, n: int, f: int) -> str | None:
        dropped = math.floor(self.c * f)
        return (
            super().check(n, f)
            or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
            or unmet(n > dropped, f"n > floor(c f) = {dropped}; got n = {n}, c = {self.c:g}, f = {f}")
        )
