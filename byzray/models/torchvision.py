"""The classifiers of torchvision.

torchvision is imported where it is used: its import takes about a second, which no other model should cost.
"""

from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from pydantic import field_validator
from torch import nn

from byzray.models._base import Model, Output, TrainingOption
from byzray.models._without_memory import WithoutMemory


class Torchvision(TrainingOption, Model):
    """Any classifier of torchvision, by its name there (resnet18, say), for images of 3 channels; random weights.

    Attributes:
        architecture: the name, one of ``torchvision.models.list_models(module=torchvision.models)``. GoogLeNet and
            Inception v3 are built without their auxiliary outputs.
        training: see :class:`~byzray.models.TrainingOption`.
    """

    architecture: str

    @field_validator("architecture")
    @classmethod
    def _known(cls, architecture: str) -> str:
        from torchvision import models

        known = models.list_models(module=models)
        if architecture not in known:
            close = get_close_matches(architecture.lower(), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise ValueError(f"torchvision has no classifier {architecture!r}: {hint}")
        return architecture

    @property
    def output(self) -> Output:
        return "scores"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return build(self.architecture, classes)

    def check(self, shape: tuple[int, ...], classes: int) -> str | None:
        if len(shape) != 3 or shape[0] != 3:
            return f"needs images of shape (3, height, width); got {shape}"
        error = failure(self.architecture, shape, classes)
        return error and f"needs images of a size that {self.architecture} can take; got {shape}: {error}"


def build(architecture: str, classes: int) -> nn.Module:
    """A new classifier of torchvision with random weights, whose only output is the (B, classes) scores."""
    from torchvision import models

    options: dict[str, Any] = {"num_classes": classes}
    if architecture in ("googlenet", "inception_v3"):
        # init_weights has its default value: leaving it out warns that the default may change.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": False}
    return models.get_model(architecture, weights=None, **options)


@cache
def failure(architecture: str, shape: tuple[int, ...], classes: int) -> str | None:
    """How the network fails on an image of such a shape, found by trying without computing; None if it does not."""
    with torch.random.fork_rng(devices=[]):  # small parameters are initialised all the same
        with WithoutMemory():
            network = build(architecture, classes)
        network = network.to("meta").eval()
    try:
        with torch.no_grad():
            network(torch.empty(1, *shape, device="meta"))
    except Exception as error:  # every architecture fails in a way of its own
        return str(error).partition("\n")[0] or type(error).__name__
    return None
