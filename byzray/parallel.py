"""Compiled code on several threads.

PyTorch spreads its own operations over threads by itself; what numpy or numba compute is spread here, over as many.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial

import torch
from torch import Tensor

WORTHWHILE = 2**18
"""Elements from which on a matrix is worth loading a compiler for: in smaller ones a pass takes no time to speak of."""


COMPARED_ROWS = 128
"""Up to so many rows a GPU compares all at once, column by column: sooner than it sorts them or takes them in pairs."""


def compiled(matrix: Tensor) -> bool:
    """Whether compiled code takes a matrix: one of single or double precision on a CPU, if it is large."""
    known = matrix.device.type == "cpu" and matrix.dtype in (torch.float32, torch.float64)
    return known and matrix.numel() >= WORTHWHILE


def fused(matrix: Tensor) -> bool:
    """Whether a Triton kernel takes a matrix: one of single or double precision on a GPU, where Triton works."""
    if not matrix.is_cuda or matrix.dtype not in (torch.float32, torch.float64) or type(matrix) is not Tensor:
        return False
    return _triton_works(matrix.device)


@cache
def _triton_works(device: torch.device) -> bool:
    try:
        from byzray import gpu_kernels
    except ImportError:  # PyTorch comes with Triton on Linux only
        return False
    return gpu_kernels.works(device)


def over_ranges(size: int, multiple: int, work: Callable[[int, int], object]) -> None:
    """Call ``work(begin, end)`` for ranges that make up range(size), one a thread; all but the last are multiples of
    `multiple` long."""
    part = math.ceil(size / (torch.get_num_threads() * multiple)) * multiple
    each([partial(work, begin, min(begin + part, size)) for begin in range(0, size, part)])


def over_rows(work: Callable[[int, int], object]) -> None:
    """Call ``work(first, stride)`` for the rows first, first + stride, ..., once a thread."""
    threads = torch.get_num_threads()
    each([partial(work, first, threads) for first in range(threads)])


def each(tasks: list[Callable[[], object]]) -> None:
    """Call each of at most as many functions as there are threads, the first in this one."""
    others = [_pool(torch.get_num_threads()).submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "byzray")
