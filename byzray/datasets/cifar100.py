"""CIFAR-100, in torchvision's layout."""

from pathlib import Path

from byzray.datasets._base import Data
from byzray.datasets._cifar import Cifar, read_pickles


class Cifar100(Cifar):
    """CIFAR-100, photographs: 50,000 + 10,000 colour images of 32x32, 100 classes.

    Read from ROOT/cifar-100-python, where torchvision puts it. Prepared as CIFAR-10, with the same mean and deviation,
    as published.

    Source: A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
    """

    @property
    def classes(self) -> int:
        return 100

    def load(self, root: Path, download: bool) -> Data:
        return self._data(*read_pickles(self.name, "CIFAR100", root, download), self.classes)
