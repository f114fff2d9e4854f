"""Wide residual networks for 32x32 images."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional

from byzray.models._base import Model, Output, TrainingOption, check_shape


class Block(nn.Module):
    """A pre-activation residual block: BN-ReLU-conv-dropout-BN-ReLU-conv, added to the (projected) input."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.conv1(functional.relu(self.bn1(x))))
        return self.conv2(functional.relu(self.bn2(y))) + self.shortcut(x)


def group(blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> nn.Sequential:
    """`blocks` blocks, the first of which changes the number of channels and the resolution."""
    rest = [Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride, dropout), *rest)


class WideResNet(TrainingOption, Model):
    """Wide residual network for 3x32x32 images, WRN-28-10 by default, as in the paper's appendix.

    Built as in the code published with *Distributed Momentum for Byzantine-resilient SGD* (ICLR 2021), which takes it
    from https://github.com/meliketoy/wide-resnet.pytorch. That departs from the paper below in three ways: every
    convolution has a bias (WRN-28-10 has 36,489,290 parameters for 10 classes rather than 36,479,194), a group's
    stride is that of its second convolution rather than of its first, and the projected shortcut starts from the
    block's input rather than from its first activation.

    Attributes:
        depth: the number of convolutions, 6k + 4 for k blocks in each of the three groups.
        widen: the factor on the numbers of channels 16, 32 and 64 of the groups.
        dropout: the probability of dropout within a block, which acts in training mode only.
        training: see :class:`~byzray.models.TrainingOption`.

    References:
        Sergey Zagoruyko, Nikos Komodakis. *Wide Residual Networks*. BMVC 2016.
    """

    depth: int = 28
    widen: PositiveInt = 10
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if depth < 10 or depth % 6 != 4:
            raise ValueError("expected 6k + 4 (10, 16, 22, 28, ...)")
        return depth

    @property
    def output(self) -> Output:
        return "scores"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        blocks = (self.depth - 4) // 6
        narrow, middle, wide = 16 * self.widen, 32 * self.widen, 64 * self.widen
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 16, 3, padding=1),
                layer1=group(blocks, 16, narrow, 1, self.dropout),
                layer2=group(blocks, narrow, middle, 2, self.dropout),
                layer3=group(blocks, middle, wide, 2, self.dropout),
                bn1=nn.BatchNorm2d(wide, momentum=0.9),
                relu=nn.ReLU(),
                pool=nn.AvgPool2d(8),
                flatten=nn.Flatten(),
                linear=nn.Linear(wide, classes),
            )
        )

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        return check_shape((3, 32, 32), shape)
