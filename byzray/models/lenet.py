"""LeNet-5."""

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from byzray.models._base import Model

SHAPES = ((1, 28, 28), (3, 32, 32))


class LeNet(Model):
    """LeNet-5 for 1x28x28 and 3x32x32 images: 61,706 and 62,006 parameters for 10 classes.

    As it is used today: with ReLU, max pooling, every map of the first convolution connected to every map of the
    second, and a dense layer at the end. Images of 28x28 are padded by 2 on each side, so that both kinds are 14x14
    after the first pooling.

    References:
        Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner. *Gradient-Based Learning Applied to Document
        Recognition*. Proceedings of the IEEE, 1998.
    """

    chained: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(shape[0], 6, 5, padding=2 if shape[-1] == 28 else 0),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                c2=nn.Conv2d(6, 16, 5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                f1=nn.Linear(400, 120),
                relu3=nn.ReLU(),
                f2=nn.Linear(120, 84),
                relu4=nn.ReLU(),
                f3=nn.Linear(84, classes),
                log_softmax=nn.LogSoftmax(dim=1),
            )
        )

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        return None if shape in SHAPES else f"needs examples of shape {SHAPES[0]} or {SHAPES[1]}; got {shape}"
