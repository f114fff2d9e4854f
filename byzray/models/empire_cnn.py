"""The convolutional network of *Fall of Empires*."""

from collections import OrderedDict
from typing import ClassVar

from pydantic import PositiveInt
from torch import nn

from byzray.models._base import Model, TrainingOption, check_shape


def block(first: int, inputs: int, outputs: int) -> OrderedDict[str, nn.Module]:
    """Two 3x3 convolutions, numbered from `first`, each with ReLU and then BatchNorm; halves height and width."""
    second = first + 1
    return OrderedDict(
        {
            f"c{first}": nn.Conv2d(inputs, outputs, 3, padding=1),
            f"relu{first}": nn.ReLU(),
            f"b{first}": nn.BatchNorm2d(outputs),
            f"c{second}": nn.Conv2d(outputs, outputs, 3, padding=1),
            f"relu{second}": nn.ReLU(),
            f"b{second}": nn.BatchNorm2d(outputs),
            f"pool{second // 2}": nn.MaxPool2d(2),
            f"dropout{second // 2}": nn.Dropout(0.25),
        }
    )


class EmpireCNN(TrainingOption, Model):
    """The paper's CIFAR-10 and CIFAR-100 network: four convolutions with BatchNorm, two dense layers.

    Attributes:
        hidden: the width of the hidden dense layer; by default, as published, 256 for 100 classes and 128 else.
        training: see :class:`~byzray.models.TrainingOption`.

    References:
        Cong Xie, Oluwasanmi Koyejo, Indranil Gupta. *Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
        Product Manipulation*. UAI 2019. The variant for CIFAR-100 is that of the code published with *Distributed
        Momentum for Byzantine-resilient SGD* (ICLR 2021).
    """

    chained: ClassVar[bool] = True

    hidden: PositiveInt | None = None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        hidden = self.hidden or (256 if classes == 100 else 128)
        return nn.Sequential(
            OrderedDict(
                **block(1, 3, 64),
                **block(3, 64, 128),
                flatten=nn.Flatten(),
                f1=nn.Linear(8192, hidden),
                relu5=nn.ReLU(),
                dropout3=nn.Dropout(0.25),
                f2=nn.Linear(hidden, classes),
                log_softmax=nn.LogSoftmax(dim=1),
            )
        )

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        return check_shape((3, 32, 32), shape)
