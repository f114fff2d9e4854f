"""Fully connected, linear and small convolutional networks.

All but `mlp` are those of the code published with *Distributed Momentum for Byzantine-resilient SGD* (El-Mhamdi,
Guerraoui, Rouault, ICLR 2021): the same layers, their parameters in the same order.
"""

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from byzray.models.base import Model, Output, check_shape


def perceptron(widths: tuple[int, ...]) -> OrderedDict[str, nn.Module]:
    """Layers that flatten an example and map it through `widths`, ReLU between; the Linear ones are f1, f2, ..."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        if index > 1:
            layers[f"relu{index - 1}"] = nn.ReLU()
        layers[f"f{index}"] = nn.Linear(inputs, outputs)
    return layers


class MLP(Model):
    """Multilayer perceptron of any hidden widths, for data of any shape.

    Attributes:
        hidden: the widths of the hidden layers; without any, this is multinomial logistic regression.
    """

    name: ClassVar[str] = "mlp"
    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    # A setup file has lists only, which a strict tuple refuses; the widths themselves stay strict.
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (64,)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        layers = perceptron((math.prod(shape), *self.hidden, classes))
        return nn.Sequential(OrderedDict(**layers, log_softmax=nn.LogSoftmax(dim=1)))


class FullyConnected(Model):
    """The paper's (Fashion-)MNIST network, 784-100-classes: 79,510 parameters for 10 classes."""

    name: ClassVar[str] = "full"
    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(OrderedDict(**perceptron((784, 100, classes)), log_softmax=nn.LogSoftmax(dim=1)))

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        inputs = math.prod(shape)
        return None if inputs == 784 else f"needs examples of 784 values, got {inputs} (shape {shape})"


class Convolutional(Model):
    """Two convolutions and two dense layers for 1x28x28 images: 431,080 parameters for 10 classes."""

    name: ClassVar[str] = "conv"
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


class Linear(Model):
    """Linear model, for data of any shape: one score for 2 classes, else one a class."""

    name: ClassVar[str] = "linear"
    vectorised: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    @property
    def output(self) -> Output:
        return "scores"

    def outputs(self, classes: int) -> int:
        return 1 if classes == 2 else classes

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(
            OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(math.prod(shape), self.outputs(classes)))
        )


class Logit(Model):
    """Logistic regression, for data of any shape: one probability (sigmoid) for 2 classes, else one a class."""

    name: ClassVar[str] = "logit"
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
