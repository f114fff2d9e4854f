"""What CIFAR-10 and CIFAR-100 share: how images are prepared, and the files in torchvision's layout."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzray.datasets._base import Data
from byzray.datasets._files import check_sums, require
from byzray.datasets._flips import FlippedImages

SHAPE = (3, 32, 32)

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Cifar(FlippedImages):
    """What both sets share: the shape of the images and how they are prepared."""

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    def _data(self, train: Part, test: Part, classes: int) -> Data:
        return Data(
            *train,
            *test,
            classes=classes,
            scale=1 / 255,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            flip_train=self.flip_train,
            flip_test=self.flip_test,
        )


def read_pickles(name: str, loader: str, root: Path, download: bool, instead: str = "") -> tuple[Part, Part]:
    """The training and the test images and labels, by torchvision's class `loader`.

    Raises:
        MissingData, ValueError: as :meth:`Dataset.load`.
    """
    from torchvision import datasets

    cifar = getattr(datasets, loader)
    sums = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    files = {root / cifar.base_folder / file: md5 for file, md5 in sums}
    require(name, files, (lambda: cifar(root, download=True)) if download else None, instead)
    check_sums(files)  # torchvision checks too, but does not say which file it is
    return _part(cifar(root, train=True)), _part(cifar(root, train=False))


def _part(loaded: Any) -> Part:
    """(N, 3, 32, 32) uint8 images and (N,) int64 labels; torchvision holds (N, 32, 32, 3) and a list."""
    return np.ascontiguousarray(loaded.data.transpose(0, 3, 1, 2)), np.array(loaded.targets, np.int64)
