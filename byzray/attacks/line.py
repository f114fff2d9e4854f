"""Attacks that lie on a line from the honest submissions, at a distance that is given or searched.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from byzray.aggregators import Aggregator
from byzray.aggregators.line import Line
from byzray.attacks.base import Attack
from byzray.attacks.search import maximise
from byzray.deviations import squared_deviations

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["searched"]


class LineAttack(Attack):
    """An attack start + factor * direction; a factor `searched` is the one found, within a budget of `evaluations` of
    the rule, to push the aggregate furthest from the honest mean."""

    evaluations: Annotated[int, Field(ge=1, le=10_000)] = 16

    @abstractmethod
    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        """The start, the direction, and the factor, not to be changed in place."""

    def __call__(self, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:
        mean_D = honest_HD.mean(dim=0)
        start_D, direction_D, factor = self.line(honest_HD, mean_D)
        line = Line(honest_HD, mean_D, start_D, direction_D, byzantine)
        if factor == "searched":
            found = maximise(rule.harm_along(line, f), self.evaluations, honest_HD.device)
            return line.vector(found).expand(byzantine, -1)
        return line.vector(factor).expand(byzantine, -1)


class Little(LineAttack):
    """Mean + factor * coordinate-wise standard deviation: a little is enough.

    The deviation has the h-1 denominator. With `negative`, the default as published with El-Mhamdi et al. (ICLR 2021),
    the factor is negated, also when it is searched.

    Needs honest >= 2.

    Reference: M. Baruch, G. Baruch, Y. Goldberg. A Little Is Enough: Circumventing Defenses For Distributed Learning.
    NeurIPS 2019.
    """

    name = "little"

    factor: Factor = 1.5
    negative: bool = True

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        variance_D = squared_deviations(honest_HD, mean_D) / (len(honest_HD) - 1)
        deviation_D = variance_D.sqrt().to(mean_D.dtype)
        return mean_D, _signed(deviation_D, self.negative), self.factor

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        return None if honest >= 2 else f"needs honest >= 2, got honest = {honest}"


class Empire(LineAttack):
    """(1 - factor) * mean: fall of empires, by manipulation of the inner product.

    With `negative` the factor is negated, also when it is searched.

    Reference: C. Xie, O. Koyejo, I. Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation. UAI 2019.
    """

    name = "empire"

    factor: Factor = 1.1
    negative: bool = False

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        return mean_D, _signed(-mean_D, self.negative), self.factor


class EmpireStrict(LineAttack):
    """-epsilon * mean: fall of empires, to the letter of its paper.

    Reference: C. Xie, O. Koyejo, I. Gupta. Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation. UAI 2019.
    """

    name = "empire-strict"

    epsilon: Factor = 1.0

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        return torch.zeros_like(mean_D), -mean_D, self.epsilon


class Hidden(LineAttack):
    """Mean + factor on one `target` coordinate, or on `all` of them: the hidden vulnerability.

    The target counts from 0, a negative one from the end. With `negative` the factor is negated, also when it is
    searched.

    Reference: E.-M. El-Mhamdi, R. Guerraoui, S. Rouault. The Hidden Vulnerability of Distributed Learning in Byzantium.
    ICML 2018.
    """

    name = "hidden"

    factor: Factor = "searched"
    negative: bool = False
    target: int | Literal["all"] = -1

    def line(self, honest_HD: Tensor, mean_D: Tensor) -> tuple[Tensor, Tensor, Factor]:
        d = len(mean_D)
        if self.target == "all":
            direction_D = torch.ones_like(mean_D)
        elif -d <= self.target < d:
            direction_D = torch.zeros_like(mean_D)
            direction_D[self.target].fill_(1)
        else:
            raise ValueError(f"target must be a coordinate from {-d} to {d - 1} (d = {d}), got target = {self.target}")
        return mean_D, _signed(direction_D, self.negative), self.factor


def _signed(direction_D: Tensor, negative: bool) -> Tensor:
    return -direction_D if negative else direction_D
