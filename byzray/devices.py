"""The device that a run computes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from byzray.mistakes import SetupError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]


def pick_device(wanted: Device) -> "torch.device":
    """The device that a setup asks for; `auto` is a GPU where there is one.

    Raises:
        SetupError: it asks for a GPU and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise SetupError("this machine", ["device: got 'cuda', but PyTorch sees no GPU here; expected 'auto' or 'cpu'"])
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


@contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """Within the block, cuDNN takes only algorithms that give the same bits every time."""
    import torch

    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def keep_freed_memory() -> None:
    """Have glibc keep blocks of up to 31 MiB that this process frees, for the next step.

    It gives a freed block back to the system, unless it has seen a larger one freed before. Each step would then pay
    for thousands of page faults.
    """
    import torch

    torch.empty(31 * 2**20, dtype=torch.uint8)
