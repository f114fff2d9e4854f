"""The paper's fully connected network.

Layers and the order of parameters are those of the code published with *Distributed Momentum for Byzantine-resilient
SGD* (El-Mhamdi, Guerraoui, Rouault, ICLR 2021).
"""

import math
from collections import OrderedDict
from typing import ClassVar

from torch import nn

from byzray.models._base import Model
from byzray.models._perceptron import perceptron


class FullyConnected(Model):
    """The paper's (Fashion-)MNIST network, 784-100-classes: 79,510 parameters for 10 classes."""

    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(OrderedDict(**perceptron((784, 100, classes)), log_softmax=nn.LogSoftmax(dim=1)))

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        inputs = math.prod(shape)
        return None if inputs == 784 else f"needs examples of 784 values; got {inputs} (shape {shape})"
