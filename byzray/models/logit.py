"""Logistic regression.

Layers and the order of parameters are those of the code published with *Distributed Momentum for Byzantine-resilient
SGD* (El-Mhamdi, Guerraoui, Rouault, ICLR 2021).
"""

import math
from collections import OrderedDict
from typing import ClassVar

from torch import nn

from byzray.models._base import Model, Output


class Logit(Model):
    """Logistic regression, for data of any shape: one probability (sigmoid) for 2 classes, else one a class."""

    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    @property
    def output(self) -> Output:
        return "probabilities"

    def outputs(self, classes: int) -> int:
        return 1 if classes == 2 else classes

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        linear = nn.Linear(math.prod(shape), self.outputs(classes))
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear, sigmoid=nn.Sigmoid()))
