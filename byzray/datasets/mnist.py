"""MNIST."""

from pathlib import Path

from byzray.datasets._base import Data, Dataset
from byzray.datasets._idx import CLASSES, SIDE, load_idx


class Mnist(Dataset):
    """MNIST, handwritten digits: 60,000 + 10,000 images of 28x28, 10 classes.

    Read from ROOT/MNIST/raw, where torchvision puts it. Prepared as published: (x/255 - .1307) / .3081.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-Based Learning Applied to Document Recognition.
    Proceedings of the IEEE, 1998.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self, root: Path, download: bool) -> Data:
        arrays = load_idx(self.name, "MNIST", root, download)
        return Data(*arrays, classes=CLASSES, scale=1 / 255, mean=(0.1307,), std=(0.3081,))
