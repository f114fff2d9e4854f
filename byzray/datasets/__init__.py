"""Data sets: names that users write, and the files behind them.

Importing this package imports neither torchvision nor scikit-learn, which actors that only train never need.
"""

from byzray.datasets.base import Data, Dataset, MissingData
from byzray.datasets.cifar import Cifar10, Cifar100
from byzray.datasets.digits import Digits
from byzray.datasets.mnist import FashionMnist, Mnist
from byzray.datasets.npz import Npz
from byzray.datasets.phishing import Phishing
from byzray.options import Registry

DATASETS: Registry[Dataset] = Registry(
    "data set",
    Dataset,  # type: ignore[type-abstract]
    [Mnist, FashionMnist, Cifar10, Cifar100, Phishing, Digits, Npz],
)

__all__ = [
    "DATASETS",
    "Cifar10",
    "Cifar100",
    "Data",
    "Dataset",
    "Digits",
    "FashionMnist",
    "MissingData",
    "Mnist",
    "Npz",
    "Phishing",
]
