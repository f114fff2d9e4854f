"""Networks of which only the shapes are of interest."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class WithoutMemory(TorchFunctionMode):
    """Within it, parameters get no memory; unlike under ``torch.device("meta")``, tensors with values keep them, from
    which some architectures compute the widths of their layers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
