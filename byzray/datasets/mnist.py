"""MNIST and Fashion-MNIST, as idx files in torchvision's layout."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.datasets.base import Data, Dataset
from byzray.datasets.files import damaged, reading, require
from byzray.datasets.flips import FlippedImages

CLASSES = 10
SIDE = 28  # pixels


class Mnist(Dataset):
    """MNIST, handwritten digits: 60,000 + 10,000 images of 28x28, 10 classes.

    Read from ROOT/MNIST/raw, where torchvision puts it. Prepared as published: (x/255 - .1307) / .3081.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-Based Learning Applied to Document Recognition.
    Proceedings of the IEEE, 1998.
    """

    name = "mnist"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self, root: Path, download: bool) -> Data:
        arrays = _load(self.name, "MNIST", root, download)
        return Data(*arrays, classes=CLASSES, scale=1 / 255, mean=(0.1307,), std=(0.3081,))


class FashionMnist(FlippedImages):
    """Fashion-MNIST, articles of clothing: 60,000 + 10,000 images of 28x28, 10 classes.

    Read from ROOT/FashionMNIST/raw, where torchvision puts it. Prepared as published: x/255, then flips.

    Source: H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms. arXiv:1708.07747, 2017.
    """

    name = "fashion-mnist"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self, root: Path, download: bool) -> Data:
        arrays = _load(self.name, "FashionMNIST", root, download)
        return Data(*arrays, classes=CLASSES, scale=1 / 255, flip_train=self.flip_train, flip_test=self.flip_test)


Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _load(name: str, loader: str, root: Path, download: bool) -> tuple[*Part, *Part]:
    """x_train, y_train, x_test, y_test from ROOT/`loader`/raw; `loader` is also the class of torchvision.

    Raises:
        MissingData, ValueError: as :meth:`Dataset.load`.
    """
    raw = root / loader / "raw"
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    train, test = ([raw / f"{part}-{kind}" for kind in kinds] for part in ("train", "t10k"))

    def fetch() -> None:
        from torchvision import datasets

        getattr(datasets, loader)(root, download=True)

    require(name, train + test, fetch if download else None)
    return *_read(*train), *_read(*test)


def _read(images: Path, labels: Path) -> Part:
    """(N, 1, 28, 28) uint8 images and (N,) int64 labels.

    Raises:
        ValueError: a file is damaged.
    """
    x, y = _read_idx(images), _read_idx(labels)
    if x.ndim != 3 or x.shape[1:] != (SIDE, SIDE):
        raise damaged(images, f"an array of shape {x.shape}", f"(N, {SIDE}, {SIDE})")
    if y.shape != x.shape[:1]:
        raise damaged(labels, f"labels of shape {y.shape}", f"{x.shape[:1]}, one for each image")
    if not len(y):
        raise damaged(labels, "no labels", "at least one")
    if y.max() >= CLASSES:
        raise damaged(labels, f"label {y.max()}", f"labels in 0..{CLASSES - 1}")
    return x[:, np.newaxis], y.astype(np.int64)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of bytes in an idx file.

    Raises:
        ValueError: the file is damaged.
    """
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    with reading(path, "an idx file"):
        array = read_sn3_pascalvincent_tensor(str(path)).numpy()
    if array.dtype != np.uint8:
        raise damaged(path, f"values of type {array.dtype}", "uint8")
    return array
