"""ResNet-18 for 32x32 images."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Self

from pydantic import PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from byzray.models._base import Model, Output, TrainingOption, check_shape

Norm = Callable[[int], nn.Module]  # makes the normalisation of so many channels

NARROWEST = 64  # channels


class Block(nn.Module):
    """A residual block: conv-norm-ReLU-conv-norm, added to the (projected) input, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else projection(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def projection(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential:
    """What gives a block's input the shape of its output."""
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(outputs)))


def group(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential:
    """Two blocks, the first of which changes the number of channels and the resolution."""
    return nn.Sequential(Block(inputs, outputs, stride, norm), Block(outputs, outputs, 1, norm))


class ResNet18(TrainingOption, Model):
    """ResNet-18 for 3x32x32 images, with GroupNorm by default: 11,173,962 parameters for 10 classes.

    It begins with a 3x3 convolution of 64 channels and without pooling, as usual for CIFAR. Four groups of two blocks
    follow, of 64, 128, 256 and 512 channels, the last three of which halve height and width; then the mean over the
    last 4x4 pixels, and a dense layer.

    Attributes:
        norm: `group`, GroupNorm, as in work on heterogeneous data (Hsieh et al. and Reddi et al.): what it computes of
            an example does not depend on the rest of the batch. `batch`, BatchNorm, as in the original.
        groups: into how many groups GroupNorm divides the channels, a divisor of 64; by default 2, as Reddi et al.
        training: see :class:`~byzray.models.TrainingOption`. It matters with BatchNorm only.

    References:
        Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. *Deep Residual Learning for Image Recognition*. CVPR 2016.

        Kevin Hsieh, Amar Phanishayee, Onur Mutlu, Phillip B. Gibbons. *The Non-IID Data Quagmire of Decentralized
        Machine Learning*. ICML 2020.

        Sashank J. Reddi, Zachary Charles, Manzil Zaheer, Zachary Garrett, Keith Rush, Jakub Konečný, Sanjiv Kumar,
        H. Brendan McMahan. *Adaptive Federated Optimization*. ICLR 2021.
    """

    norm: Literal["group", "batch"] = "group"
    groups: PositiveInt | None = None

    @field_validator("groups")
    @classmethod
    def _divisor(cls, groups: int | None) -> int | None:
        if groups and NARROWEST % groups:
            raise ValueError(f"expected a divisor of {NARROWEST} (1, 2, 4, 8, 16, 32, 64)")
        return groups

    @model_validator(mode="after")
    def _one_norm(self) -> Self:
        if self.norm == "batch" and self.groups is not None:
            raise ValueError("expected no 'groups', which belongs to 'norm: group'")
        return self

    @property
    def output(self) -> Output:
        return "scores"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        norm = self._normalisation
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, NARROWEST, 3, padding=1, bias=False),
                norm1=norm(NARROWEST),
                relu=nn.ReLU(),
                layer1=group(NARROWEST, 64, 1, norm),
                layer2=group(64, 128, 2, norm),
                layer3=group(128, 256, 2, norm),
                layer4=group(256, 512, 2, norm),
                pool=nn.AvgPool2d(4),
                flatten=nn.Flatten(),
                linear=nn.Linear(512, classes),
            )
        )

    def _normalisation(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels) if self.norm == "batch" else nn.GroupNorm(self.groups or 2, channels)

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        return check_shape((3, 32, 32), shape)
