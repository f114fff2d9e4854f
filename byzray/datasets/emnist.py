"""EMNIST."""

from pathlib import Path
from typing import Literal

from byzray.datasets._base import Data, Dataset
from byzray.datasets._idx import SIDE, load_idx

# Those in the files; a class is counted from 0.
LABELS = {
    "byclass": range(62),
    "bymerge": range(47),
    "balanced": range(47),
    "letters": range(1, 27),
    "digits": range(10),
    "mnist": range(10),
}


class Emnist(Dataset):
    """EMNIST, handwritten digits and letters: 28x28 images in six subsets, `balanced` of 112,800 + 18,800, 47 classes.

    Read from ROOT/EMNIST/raw, where torchvision puts it. The images are transposed in comparison with those of MNIST,
    as in the files and as torchvision returns them. Prepared as MNIST: (x/255 - .1307) / .3081.

    Attributes:
        subset: which examples, and what is a class. `byclass`, 697,932 + 116,323: the 10 digits, 26 upper-case and 26
            lower-case letters. `bymerge`: the same examples, with one class for both cases of the 15 letters that look
            alike in both, 47 classes. `balanced`: equally many of each of these 47. `letters`, 124,800 + 20,800: one
            class a letter, 26; labels are 1..26 in the files and 0..25 here. `digits`, 240,000 + 40,000, and `mnist`,
            60,000 + 10,000: 10 classes.

    Source: G. Cohen, S. Afshar, J. Tapson, A. van Schaik. EMNIST: an Extension of MNIST to Handwritten Letters.
    International Joint Conference on Neural Networks (IJCNN), 2017.
    """

    subset: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def classes(self) -> int:
        return len(LABELS[self.subset])

    def load(self, root: Path, download: bool) -> Data:
        parts = (f"emnist-{self.subset}-train", f"emnist-{self.subset}-test")
        labels = LABELS[self.subset]
        arrays = load_idx(self.name, "EMNIST", root, download, parts, labels, split=self.subset)
        return Data(*arrays, classes=self.classes, scale=1 / 255, mean=(0.1307,), std=(0.3081,))
