"""Gaussian noise.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from byzray.attacks._base import Attack, View


class Gaussian(Attack):
    """mean + std * normal noise, drawn anew for each Byzantine worker, coordinate and step.

    With the default, its norm is about sqrt(d), far outside of the honest submissions: whether a rule drops the
    obvious.
    """

    depends_on_step = True

    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        drawn_FD = view.step.generator("gaussian").standard_normal((view.byzantine, honest_HD.shape[1]))
        return (self.mean + self.std * torch.from_numpy(drawn_FD)).to(honest_HD)
