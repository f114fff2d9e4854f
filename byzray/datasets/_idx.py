"""The idx files of MNIST and its relatives, in torchvision's layout."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from byzray.datasets._files import absent, damaged, reading, require

CLASSES = 10
SIDE = 28  # pixels

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load_idx(
    name: str,
    loader: str,
    root: Path,
    download: bool,
    parts: tuple[str, str] = ("train", "t10k"),
    labels: range = range(CLASSES),
    **options: str,
) -> tuple[*Part, *Part]:
    """x_train, y_train, x_test, y_test from ROOT/`loader`/raw.

    Args:
        name: the name of the data set.
        loader: the name of its folder, and of the class of torchvision that downloads it.
        root: the folder that holds data sets.
        download: whether missing files may be downloaded.
        parts: how the names of the training and of the test files begin.
        labels: the labels in the files, one after the other; classes are counted from 0.
        options: of the class of torchvision.

    Raises:
        MissingData, ValueError: as :meth:`byzray.datasets.Dataset.load`.
    """
    raw = root / loader / "raw"
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    train, test = ([raw / f"{part}-{kind}" for kind in kinds] for part in parts)

    def fetch() -> None:
        from torchvision import datasets

        for is_train, files in ((True, train), (False, test)):
            if absent(files):  # of EMNIST, torchvision looks for one part only
                getattr(datasets, loader)(root, train=is_train, download=True, **options)

    require(name, train + test, fetch if download else None)
    return *_read(train, labels), *_read(test, labels)


def _read(files: list[Path], expected: range) -> Part:
    """(N, 1, 28, 28) uint8 images and (N,) int64 labels, in which the first of the expected ones is 0.

    Raises:
        ValueError: a file is damaged.
    """
    images, labels = files
    x, y = _read_idx(images), _read_idx(labels)
    if x.ndim != 3 or x.shape[1:] != (SIDE, SIDE):
        raise damaged(images, f"an array of shape {x.shape}", f"(N, {SIDE}, {SIDE})")
    if y.shape != x.shape[:1]:
        raise damaged(labels, f"labels of shape {y.shape}", f"{x.shape[:1]}, one for each image")
    if not len(y):
        raise damaged(labels, "no labels", "at least one")
    for label in (y.max(), y.min()):
        if label not in expected:
            raise damaged(labels, f"label {label}", f"labels in {expected[0]}..{expected[-1]}")
    return x[:, np.newaxis], y.astype(np.int64) - expected[0]


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
