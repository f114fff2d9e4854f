"""A rule of your own with a state, in one file: own.yaml names it `own_rule:FollowingClip`."""

from typing import Annotated

import torch
from pydantic import Field

from byzray.aggregators import Aggregate, Aggregator
from byzray.distances import norms
from byzray.state import State
from byzray.step import Step
from byzray.submissions import Submissions


class FollowingClip(Aggregator):
    """The previous aggregate, moved by the mean of the differences to it, each clipped to a radius.

    `centred-clipping` gets the radius as an option. Here it is an exponential average of the median distance of the
    submissions to the previous aggregate. With at most f < n/2 submissions that are not finite the median distance is
    finite.
    """

    memory: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def initial_state(self, step: Step, like_D: torch.Tensor) -> State:
        return {"previous": torch.zeros_like(like_D), "radius": torch.zeros((), dtype=torch.float64).to(like_D.device)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        distances_N = norms(submissions.rows_ND - state["previous"])  # +inf for one that is not finite
        kept = self.memory if step.number else 0  # at the first step there is no radius to keep
        radius = kept * state["radius"] + (1 - kept) * distances_N.median()
        weights_N = (radius / distances_N).clamp(max=1).nan_to_num(nan=1) / submissions.n
        moved_D = submissions.combine(weights_N) + (1 - weights_N.sum()) * state["previous"]
        return Aggregate(moved_D), {"previous": moved_D, "radius": radius}

    def check(self, n: int, f: int) -> str | None:
        return None if n >= 2 * f + 1 else f"needs n >= 2f+1; got n = {n}, f = {f}"
