"""The small convolutional network.

Layers and the order of parameters are those of the code published with *Distributed Momentum for Byzantine-resilient
SGD* (El-Mhamdi, Guerraoui, Rouault, ICLR 2021).
"""

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from byzray.models._base import Model, check_shape


class Convolutional(Model):
    """Two convolutions and two dense layers for 1x28x28 images: 431,080 parameters for 10 classes."""

    chained: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(1, 20, 5),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                c2=nn.Conv2d(20, 50, 5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                f1=nn.Linear(800, 500),
                relu3=nn.ReLU(),
                f2=nn.Linear(500, classes),
                log_softmax=nn.LogSoftmax(dim=1),
            )
        )

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        return check_shape((1, 28, 28), shape)
