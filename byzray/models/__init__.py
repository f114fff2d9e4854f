"""The networks that can be trained, by the names that setup files write."""

from byzray.models.base import Model, Output, TrainingOption
from byzray.models.empire import EmpireCNN
from byzray.models.simple import MLP, Convolutional, FullyConnected, Linear, Logit
from byzray.models.vision import Torchvision
from byzray.models.wide_resnet import WideResNet
from byzray.options import Registry

__all__ = [
    "MLP",
    "MODELS",
    "Convolutional",
    "EmpireCNN",
    "FullyConnected",
    "Linear",
    "Logit",
    "Model",
    "Output",
    "Torchvision",
    "TrainingOption",
    "WideResNet",
]

MODELS = Registry(
    "model",
    Model,  # type: ignore[type-abstract]
    [MLP, FullyConnected, Convolutional, Logit, Linear, EmpireCNN, WideResNet, Torchvision],
)
