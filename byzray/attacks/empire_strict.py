"""Fall of empires, to the letter of its paper.

Shapes in names: H honest submissions, D parameters.
"""

import torch
from torch import Tensor

from byzray.attacks._line import Factor, LineAttack
from byzray.deviations import Spread


class EmpireStrict(LineAttack):
    """-epsilon * mean: fall of empires, to the letter of its paper.

    Reference: C. Xie, O. Koyejo, I. Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation. UAI 2019.
    """

    epsilon: Factor = 1.0

    def line(self, honest: Spread, byzantine: int) -> tuple[Tensor, Tensor, Factor]:
        mean_D = honest.mean_D
        return torch.zeros_like(mean_D), -mean_D, self.epsilon
