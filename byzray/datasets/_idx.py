"""The idx files of MNIST and Fashion-MNIST, in torchvision's layout."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.datasets._files import damaged, reading, require

CLASSES = 10
SIDE = 28  # pixels

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load_idx(name: str, loader: str, root: Path, download: bool) -> tuple[*Part, *Part]:
    """x_train, y_train, x_test, y_test from ROOT/`loader`/raw; `loader` is also the class of torchvision.

    Raises:
        MissingData, ValueError: as :meth:`byzray.datasets.Dataset.load`.
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
