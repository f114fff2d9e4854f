"""What a process holds that PyTorch and the random generators listen to: settings and global random states."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@contextmanager
def own_settings() -> Iterator[None]:
    """PyTorch's settings as byzray computes with them; the caller's are put back, whatever is set meanwhile.

    Gradients are recorded, inference mode, autocast and anomaly detection are off, new tensors are float32 and on the
    CPU, and float32 products have their full precision. The default type and the precision belong to the process, so
    other threads see them change; the rest belongs to this thread.
    """
    device, dtype, precision = torch.empty(0).device, torch.get_default_dtype(), _matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.is_autocast_enabled("cuda"):
            stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if device.type == "cpu":
            stack.callback(_reset_device)
        else:
            stack.enter_context(torch.device("cpu"))
        if precision is not None:
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        yield


def _reset_device() -> None:
    """New tensors are on the CPU again. Said with a device, it would cost time in every later call of PyTorch."""
    if torch.empty(0).device.type != "cpu":
        torch.set_default_device(None)


def _matmul_precision() -> str | None:
    """None where it was set for single backends, by PyTorch's newer interface: it then stays as it is."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


class RandomStates(NamedTuple):
    """The states of the global random generators of Python, numpy and PyTorch, of the latter also that of a GPU."""

    python: object
    of_numpy: Any
    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def now(cls, device: torch.device | None = None) -> "RandomStates":
        """The states at this moment; that of the GPU if `device` is one."""
        gpu = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(), torch.random.get_rng_state(), gpu)  # noqa: NPY002

    def moved(self, later: "RandomStates") -> list[str]:
        """Whose generators were used until `later`."""
        pytorch = [(self.cpu, later.cpu), (self.gpu, later.gpu)]
        found = {
            "Python": self.python != later.python,
            "numpy": not all(map(np.array_equal, self.of_numpy, later.of_numpy)),
            "PyTorch": not all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pytorch),
        }
        return [name for name, moved in found.items() if moved]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random generators as a seed (63 bits) leaves them, for a network to be built; put back in the end."""
    python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  it is the global state that is used
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        try:
            torch.manual_seed(seed)
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # noqa: NPY002
            random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)  # noqa: NPY002
