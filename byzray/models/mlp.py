"""The multilayer perceptron."""

import math
from collections import OrderedDict
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from byzray.models._base import Model
from byzray.models._perceptron import perceptron


class MLP(Model):
    """Multilayer perceptron of any hidden widths, for data of any shape.

    Attributes:
        hidden: the widths of the hidden layers; without any, this is multinomial logistic regression.
    """

    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    # A setup file has lists only, which a strict tuple refuses; the widths themselves stay strict.
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (64,)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        layers = perceptron((math.prod(shape), *self.hidden, classes))
        return nn.Sequential(OrderedDict(**layers, log_softmax=nn.LogSoftmax(dim=1)))
