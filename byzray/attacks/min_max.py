"""Min-max: no further from any honest submission than these are from each other.

Shapes in names: H honest submissions, D parameters.
"""

import torch
from torch import Tensor

from byzray.attacks._perturbation import Perturbation
from byzray.distances import distances


class MinMax(Perturbation):
    """The honest mean, moved along p until an honest submission is as far away as the furthest two are apart.

    a + gamma p with the largest gamma for which no honest submission is further away than the two that are furthest
    apart. p is `direction`: `std`, the negated standard deviation of each coordinate, `unit`, -a/||a||, or `sign`,
    -sign(a).

    gamma is computed, not searched: it is the least over i of the positive root of ||a + gamma p - s_i|| = diameter.

    Reference: V. Shejwalkar, A. Houmansadr. Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning. NDSS 2021.
    """

    def gamma(self, deviations_HD: Tensor, p_D: Tensor) -> Tensor:
        p = p_D.double()
        q = p @ p
        b_H = -(deviations_HD.double() @ p)
        lengths_H = deviations_HD.double().square().sum(dim=1)
        c_H = (lengths_H - distances(deviations_HD).max().square()).clamp(max=0)
        roots_H = (b_H.square() - q * c_H).sqrt()
        # Of two equal forms the one that does not cancel.
        found_H = torch.where(b_H > 0, -c_H / (b_H + roots_H), (roots_H - b_H) / q)
        return found_H.min()
