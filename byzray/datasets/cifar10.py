"""CIFAR-10, as the official binary files or in torchvision's layout."""

from pathlib import Path

import numpy as np

from byzray.datasets._base import Data
from byzray.datasets._cifar import SHAPE, Cifar, Part, read_pickles
from byzray.datasets._files import absent, damaged, listed, reading

RECORDS = 10_000  # in each binary file
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes


class Cifar10(Cifar):
    """CIFAR-10, photographs: 50,000 + 10,000 colour images of 32x32, 10 classes.

    Read from the official binary files, ROOT/cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin, if they are
    there, else from ROOT/cifar-10-batches-py, where torchvision puts it. Prepared as published: flips, x/255
    normalised per channel.

    Source: A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
    """

    @property
    def classes(self) -> int:
        return 10

    def load(self, root: Path, download: bool) -> Data:
        folder = root / "cifar-10-batches-bin"
        test = folder / "test_batch.bin"
        train = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
        if missing := absent([*train, test]):
            instead = f"The official binary files do as well; of these are missing:{listed(missing)}"
            return self._data(*read_pickles(self.name, "CIFAR10", root, download, instead), self.classes)
        return self._data(_read_binary(train, self.classes), _read_binary([test], self.classes), self.classes)


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
