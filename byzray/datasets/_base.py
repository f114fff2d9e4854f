"""What every data set is, and how its raw examples become a model's input.

Shapes in names: N examples, B a batch.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.mistakes import WrongInput
from byzray.options import Options


class MissingData(WrongInput):
    """The files of a data set are not where they have to be; the message says where that is and how to get them."""


@dataclass(frozen=True)
class Data:
    """A data set in memory: raw arrays, shared by every actor of a node, and how to prepare a batch of them.

    Attributes:
        x_train: (N, *shape) uint8 or float32, images channels first.
        y_train: (N,) int64 labels in [0, classes).
        x_test: like x_train; may hold no examples.
        y_test: like y_train.
        classes: the number of classes.
        scale: raw values are multiplied by this first (1/255 for bytes) ...
        mean: ... then this is subtracted, one value a channel (or one for all) ...
        std: ... and the result divided by this.
        flip_train: whether training images are flipped horizontally with probability 1/2.
        flip_test: the same for test images.
        shuffle: whether the training stream is shuffled anew in each epoch, rather than read in order.
        owners: (N,) int64, the honest worker that each training example belongs to, where the split `file` says so.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.int64]
    classes: int
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flip_train: bool = False
    flip_test: bool = False
    shuffle: bool = True
    owners: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x_train.shape[1:]


class Dataset(Options):
    """Where examples come from.

    A data set of your own derives from this class, declares its options as pydantic fields and implements
    :meth:`load`.
    """

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one example, if it is known before the files are read."""
        return None

    @property
    def classes(self) -> int | None:
        """The number of classes, if it is known before the files are read."""
        return None

    @abstractmethod
    def load(self, root: Path, download: bool) -> Data:
        """Read the data set.

        Args:
            root: the folder that holds data sets.
            download: whether missing files may be downloaded into `root`.

        Raises:
            MissingData: files are missing and may not, or cannot, be downloaded.
            ValueError: a file does not hold what it should.
        """
