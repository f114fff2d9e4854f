"""Mimic: to submit again what an honest worker submits.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import math
from typing import Self

import torch
from pydantic import NonNegativeInt, model_validator
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.distances import norms
from byzray.state import State
from byzray.step import Step


class Mimic(Attack):
    """The submission of one honest worker, from all Byzantine ones: it over-represents that worker's data.

    Without `warmup` it is that of the honest worker `target`. With a warm-up of T steps it is that of the worker that
    most pulls along z, the direction of the largest honest variance, which is learned meanwhile: at step t < T the
    mean a of the honest submissions s_i enters mu, the average of those so far, then u = sum_i <s_i - mu, z>(s_i - mu)
    enters z likewise, as u/||u||, and z is normalised; sent is the s_i of the largest <s_i - a, z>, ties to the lowest
    index. From T on it is that of the worker chosen last. z starts as normal noise, and its sign is that of the draw.
    If the submission of the worker is missing, sent is that of the largest <s_i - a, z>, without a warm-up the first;
    where the defence sees a zero vector in its place, that.

    It hurts only where the workers' data differ. Needs honest > target.

    Reference: S. P. Karimireddy, L. He, M. Jaggi. Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing.
    ICLR 2022.
    """

    depends_on_step = True

    target: NonNegativeInt = 0
    warmup: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.warmup and self.target:
            raise ValueError("expected either 'target' or 'warmup', which chooses the worker itself")
        return self

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        if not self.warmup:
            return {}
        normal_D = torch.from_numpy(step.generator_of_run("mimic").standard_normal(len(like_D)))
        worker = torch.zeros((), dtype=torch.int64, device=like_D.device)
        return {"mu": torch.zeros_like(like_D), "z": normal_D.to(like_D), "worker": worker}

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        if not self.warmup:
            target = view.workers_H.index(self.target) if self.target in view.workers_H else 0
            return honest_HD[target].expand(view.byzantine, -1), state
        if view.step.number < self.warmup:
            state = self._learned(honest_HD, view, state)
        chosen_H = _numbers(view, honest_HD) == state["worker"]
        position = torch.where(chosen_H.any(), chosen_H.int().argmax(), _furthest(honest_HD, state["z"]))
        return honest_HD.index_select(0, position[None]).expand(view.byzantine, -1), state

    def _learned(self, honest_HD: Tensor, view: View, state: State) -> State:
        """The state after a step of the warm-up. What is not finite is left out."""
        t = view.step.number
        finite_H = norms(honest_HD).isfinite()
        finite_HD = torch.where(finite_H[:, None], honest_HD, 0)
        mean_D = finite_HD.sum(dim=0) / finite_H.sum().clamp(min=1)
        mu_D = (t * state["mu"] + mean_D) / (t + 1)
        deviations_HD = torch.where(finite_H[:, None], finite_HD - mu_D, 0)
        u_D = (deviations_HD @ state["z"]) @ deviations_HD
        length = torch.linalg.vector_norm(u_D)
        moved_D = (t * state["z"] + u_D / length) / (t + 1)
        z_D = torch.where(length > 0, moved_D / torch.linalg.vector_norm(moved_D), state["z"])
        worker = _numbers(view, honest_HD).index_select(0, _furthest(honest_HD, z_D)[None])[0]
        return {"mu": mu_D, "z": z_D, "worker": worker}

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        return None if honest > self.target else f"needs honest > target; got honest = {honest}, target = {self.target}"

    def check_missing(self, honest: int, byzantine: int, f: int) -> str | None:
        return None  # another one stands in for the target


def _numbers(view: View, like: Tensor) -> Tensor:
    """The numbers (H,) of the workers that are seen; all of them are on a GPU without waiting."""
    h = len(view.workers_H)
    if view.workers_H[-1] == h - 1:
        return torch.arange(h, device=like.device)
    return torch.tensor(view.workers_H, device=like.device)


def _furthest(honest_HD: Tensor, z_D: Tensor) -> Tensor:
    """The position of the submission that is furthest along z; what is not finite is not."""
    pulls_H = (honest_HD - honest_HD.nan_to_num(posinf=0, neginf=0).mean(dim=0)) @ z_D
    return pulls_H.nan_to_num(nan=-math.inf, posinf=-math.inf).argmax()
