"""The hidden vulnerability.

Shapes in names: H honest submissions, D parameters.
"""

from typing import Literal

import torch
from torch import Tensor

from byzray.attacks._line import Factor, LineAttack, signed
from byzray.deviations import Spread


class Hidden(LineAttack):
    """Mean + factor on one `target` coordinate, or on `all` of them: the hidden vulnerability.

    The target counts from 0, a negative one from the end. With `negative` the factor is negated, also when it is
    searched.

    Reference: E.-M. El-Mhamdi, R. Guerraoui, S. Rouault. The Hidden Vulnerability of Distributed Learning in Byzantium.
    ICML 2018.
    """

    factor: Factor = "searched"
    negative: bool = False
    target: int | Literal["all"] = -1

    def line(self, honest: Spread, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        mean_D = honest.mean_D
        d = len(mean_D)
        if self.target == "all":
            direction_D = torch.ones_like(mean_D)
        elif -d <= self.target < d:
            direction_D = torch.zeros_like(mean_D)
            direction_D[self.target].fill_(1)
        else:
            raise ValueError(f"target must be a coordinate from {-d} to {d - 1} (d = {d}), got target = {self.target}")
        return mean_D, signed(direction_D, self.negative), self.factor
