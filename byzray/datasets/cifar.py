"""CIFAR-10 and CIFAR-100, in torchvision's layout or, for the former, as the official binary files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzray.datasets.base import Data
from byzray.datasets.files import absent, damaged, listed, reading, require
from byzray.datasets.flips import FlippedImages

SHAPE = (3, 32, 32)
RECORDS = 10_000  # in each binary file
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


class _Cifar(FlippedImages):
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


class Cifar10(_Cifar):
    """CIFAR-10, photographs: 50,000 + 10,000 colour images of 32x32, 10 classes.

    Read from the official binary files, ROOT/cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin, if they are
    there, else from ROOT/cifar-10-batches-py, where torchvision puts it. Prepared as published: flips, x/255
    normalised per channel.

    Source: A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
    """

    name = "cifar10"

    @property
    def classes(self) -> int:
        return 10

    def load(self, root: Path, download: bool) -> Data:
        folder = root / "cifar-10-batches-bin"
        test = folder / "test_batch.bin"
        train = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
        if missing := absent([*train, test]):
            instead = f"The official binary files do as well; of these are missing:{listed(missing)}"
            return self._data(*_read_pickles(self.name, "CIFAR10", root, download, instead), self.classes)
        return self._data(_read_binary(train, self.classes), _read_binary([test], self.classes), self.classes)


class Cifar100(_Cifar):
    """CIFAR-100, photographs: 50,000 + 10,000 colour images of 32x32, 100 classes.

    Read from ROOT/cifar-100-python, where torchvision puts it. Prepared as CIFAR-10, with the same mean and deviation,
    as published.

    Source: A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
    """

    name = "cifar100"

    @property
    def classes(self) -> int:
        return 100

    def load(self, root: Path, download: bool) -> Data:
        return self._data(*_read_pickles(self.name, "CIFAR100", root, download), self.classes)


def _read_binary(paths: list[Path], classes: int) -> Part:
    """(N, 3, 32, 32) uint8 images and (N,) int64 labels of some binary files.

    Raises:
        ValueError: a file is damaged.
    """
    x, y = [], []
    for path in paths:
        size, expected = path.stat().st_size, f"{RECORDS} records of {RECORD_BYTES} bytes"
        if size != RECORDS * RECORD_BYTES:
            raise damaged(path, f"{size / RECORD_BYTES:g} records in {size} bytes", expected)
        with reading(path, expected):
            records = np.fromfile(path, np.uint8).reshape(RECORDS, RECORD_BYTES)
        if records[:, 0].max() >= classes:
            raise damaged(path, f"label {records[:, 0].max()}", f"labels in 0..{classes - 1}")
        x.append(records[:, 1:])
        y.append(records[:, 0])
    return np.concatenate(x).reshape(-1, *SHAPE), np.concatenate(y).astype(np.int64)


def _read_pickles(name: str, loader: str, root: Path, download: bool, instead: str = "") -> tuple[Part, Part]:
    """The training and the test images and labels, by torchvision's class `loader`.

    Raises:
        MissingData, ValueError: as :meth:`Dataset.load`.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    cifar = getattr(datasets, loader)
    sums = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    files = {root / cifar.base_folder / file: md5 for file, md5 in sums}
    require(name, files, (lambda: cifar(root, download=True)) if download else None, instead)
    # torchvision checks too, but does not say which file it is
    for path, md5 in files.items():
        with reading(path, "a file"):
            whole = check_integrity(path, md5)
        if not whole:
            raise damaged(path, "another md5 sum", md5)
    return _part(cifar(root, train=True)), _part(cifar(root, train=False))


def _part(loaded: Any) -> Part:
    """(N, 3, 32, 32) uint8 images and (N,) int64 labels; torchvision holds (N, 32, 32, 3) and a list."""
    return np.ascontiguousarray(loaded.data.transpose(0, 3, 1, 2)), np.array(loaded.targets, np.int64)
