"""Base class of models."""

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import nn

from byzray.options import Options

Output = Literal["log-probabilities", "probabilities", "scores"]


class Model(Options):
    """A kind of network, built to fit a data set.

    A model of your own derives from this class, declares its options as pydantic fields and implements
    :meth:`build`; it overrides `output` if its network does not end in a log-softmax. If the network has dropout or
    BatchNorm, it derives from :class:`TrainingOption` as well: ``class Mine(TrainingOption, Model)``.

    Attributes:
        training: whether gradients are computed in training mode; see :class:`TrainingOption`.
        vectorised: whether the gradients of many workers are computed at once, by torch.func.vmap; for networks that
            are quicker so (no convolutions) and whose code allows it.
        dense: whether the network is an nn.Sequential of Linear layers, each used once, and of functions of single
            examples (activations, Flatten) that do not work in place, all without hooks. Its gradients are computed
            faster still, see :class:`byzray.gradients.Gradients`.
        chained: the same of networks that have Conv2d and BatchNorm2d layers, too; it matters on GPUs.
    """

    training: ClassVar[bool] = False
    vectorised: ClassVar[bool] = False
    dense: ClassVar[bool] = False
    chained: ClassVar[bool] = False

    @property
    def output(self) -> Output:
        """What the network returns, which decides the losses that fit it."""
        return "log-probabilities"

    def outputs(self, classes: int) -> int:
        """How many numbers the network returns for one example."""
        return classes

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A new network for examples of `shape` (channels first for images) and `classes` classes, at least 2.

        It maps a float32 batch (B, *shape) to (B, outputs). Its parameters are initialised by PyTorch's defaults from
        torch's global random state, which the caller seeds.
        """

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        """Why the model does not fit such data, in the form "needs ...; got ..."; None if it does."""
        return None


class TrainingOption(Options):
    """The option `training` of models whose network behaves differently in training and in evaluation mode.

    Attributes:
        training: False as published: gradients are computed in evaluation mode, without dropout and with BatchNorm at
            its initial statistics (mean 0, variance 1). True: with dropout and the statistics of each batch.
    """

    training: bool = False


def check_shape(needed: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """Why a model that takes examples of one shape only does not fit `shape`; None if it does."""
    return None if shape == needed else f"needs examples of shape {needed}; got {shape}"
