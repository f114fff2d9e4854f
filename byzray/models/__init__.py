"""The networks that can be trained: each is a file here, whose name is the one that setups write."""

from typing import Any

from byzray.models._base import Model, Output, TrainingOption
from byzray.options import Registry

__all__ = ["MODELS", "Model", "Output", "TrainingOption"]

MODELS: Registry[Model] = Registry("model", Model, __name__)  # type: ignore[type-abstract]


def __getattr__(name: str) -> Any:
    return MODELS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *MODELS.exports]
