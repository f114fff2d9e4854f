"""Fashion-MNIST."""

from pathlib import Path

from byzray.datasets._base import Data
from byzray.datasets._flips import FlippedImages
from byzray.datasets._idx import CLASSES, SIDE, load_idx


class FashionMnist(FlippedImages):
    """Fashion-MNIST, articles of clothing: 60,000 + 10,000 images of 28x28, 10 classes.

    Read from ROOT/FashionMNIST/raw, where torchvision puts it. Prepared as published: x/255, then flips.

    Source: H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms. arXiv:1708.07747, 2017.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self, root: Path, download: bool) -> Data:
        arrays = load_idx(self.name, "FashionMNIST", root, download)
        return Data(*arrays, classes=CLASSES, scale=1 / 255, flip_train=self.flip_train, flip_test=self.flip_test)
