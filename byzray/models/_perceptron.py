"""The layers of fully connected networks."""

from collections import OrderedDict
from itertools import pairwise

from torch import nn


def perceptron(widths: tuple[int, ...]) -> OrderedDict[str, nn.Module]:
    """Layers that flatten an example and map it through `widths`, ReLU between; the Linear ones are f1, f2, ..."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        if index > 1:
            layers[f"relu{index - 1}"] = nn.ReLU()
        layers[f"f{index}"] = nn.Linear(inputs, outputs)
    return layers
