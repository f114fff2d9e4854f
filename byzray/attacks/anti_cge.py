"""The attack made for comparative gradient elimination.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import math

import torch
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.distances import norms_as_published, smallest


class AntiCge(Attack):
    """The negated sum of the h-f honest submissions of least norm, scaled to be selected by `cge`.

    The one of least norm counts twice, as in the code published with El-Mhamdi et al. (ICLR 2021). Scaled to just under
    the (h-f+1)-th least norm, the attack should be selected with those h-f; "just under" is one step of double
    precision, as published, so that at times rounding lets the honest submission of that norm win. With more Byzantine
    workers than the f tolerated, NaN, as one is selected anyway.

    Needs f <= honest, unless byzantine > f.
    """

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        byzantine, f = view.byzantine, view.step.f
        if byzantine > f:
            return torch.full_like(honest_HD[0], math.nan).expand(byzantine, -1)
        norms_H = norms_as_published(honest_HD)
        ranked_H = smallest(norms_H, len(honest_HD))
        selected = len(honest_HD) - f
        # Picked by index_select: to index by a number on a GPU is to wait for it.
        attack_D = -(honest_HD.index_select(0, ranked_H[:1])[0] + honest_HD[ranked_H[:selected]].sum(dim=0))
        norm = norms_as_published(attack_D[None])
        limit = norms_H.index_select(0, ranked_H[selected : selected + 1])[0].double()
        scale = torch.nextafter(limit, torch.zeros_like(limit)) / norm
        scaled_D = attack_D * scale.to(attack_D.dtype)
        return torch.where(norm > 0, scaled_D, attack_D).expand(byzantine, -1)

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        return None if byzantine > f or f <= honest else f"needs f <= honest; got f = {f}, honest = {honest}"
