"""How the examples that a worker draws at a step become its batch: a pure function of (seed, worker, step).

Shapes in names: K workers, B examples a batch.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray import parallel
from byzray.datasets import Data
from byzray.parallel import over_ranges
from byzray.randomness import generator
from byzray.splits import Stream


class Batch(NamedTuple):
    """Examples ready for a model: x (count, *shape) float32 and y (count,) int64."""

    x: Tensor
    y: Tensor


KEPT_BYTES = 2**30
"""Up to so many bytes, examples are kept on a GPU: those of every data set of the paper. Each process keeps its own."""


class TrainingStream:
    """The batches of workers.

    Args:
        data: the data set.
        stream: which examples they draw.
        device: where batches are prepared.
        drawn_from: (N,) the positions in the training set of the examples that the stream divides; none: all of it.
    """

    def __init__(
        self, data: Data, stream: Stream, device: torch.device, drawn_from: NDArray[np.int64] | None = None
    ) -> None:
        self.data = data
        self.stream = stream
        self.drawn_from = drawn_from
        self.examples = Examples(data, data.x_train, data.y_train, device)

    def indices(self, workers: range, step: int, local_step: int = 0) -> NDArray[np.int64]:
        """The (K*B,) positions in the training set that consecutive workers draw, worker after worker."""
        indices = self.stream.indices(workers, step, local_step)
        return indices if self.drawn_from is None else self.drawn_from[indices]

    def batch(self, workers: range, step: int, local_step: int = 0) -> Batch:
        """The K*B examples that consecutive workers draw, worker after worker."""
        return self.examples.batch(*self.draw(workers, step, local_step))

    def draw(self, workers: range, step: int, local_step: int = 0) -> tuple[Tensor, Tensor | None]:
        """Their positions (K*B,) int64, and where examples are mirrored, (K*B,) bool, if any may be; on the host."""
        indices = torch.from_numpy(self.indices(workers, step, local_step))
        flips = None
        if self.data.flip_train:
            training = self.stream.training
            draw = step * training.local_steps + local_step
            flips = np.concatenate(
                [generator(training.seed, "flip", worker, draw).random(training.batch_size) < 0.5 for worker in workers]
            )
        return indices, None if flips is None else torch.from_numpy(flips)


class Examples:
    """Examples that become batches: chosen, flipped, scaled and normalised on the device, where they are kept as they
    are stored (bytes, for images) unless they are many. On CPUs they are not copied.

    Args:
        data: the data set, for its scale, mean and standard deviation.
        x: examples (size, *shape) of it.
        y: their labels (size,).
        device: where batches are prepared.
    """

    def __init__(self, data: Data, x: NDArray[np.generic], y: NDArray[np.int64], device: torch.device) -> None:
        self.device = device
        self.x, self.y = _tensor(x), _tensor(y)
        if x.nbytes <= KEPT_BYTES:
            self.x, self.y = self.x.to(device), self.y.to(device)
        std = torch.tensor(data.std, dtype=torch.float64)
        mean = torch.tensor(data.mean, dtype=torch.float64)
        # (x * scale - mean) / std in one multiplication and one addition, a value a channel.
        self.factor = self._per_channel(data.scale / std, data.shape)
        self.offset = self._per_channel(-mean / std, data.shape)
        self.raw = bool((self.factor == 1).all() and (self.offset == 0).all())

    def _per_channel(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        return values.float().reshape(-1, *([1] * (len(shape) - 1))).to(self.device)

    def batch(self, chosen: Tensor | slice, flips: Tensor | None = None) -> Batch:
        """Prepare some examples.

        Args:
            chosen: their positions (count,) int64, or a slice of them.
            flips: (count,) bool, true where one is mirrored along its last axis; none: nowhere.
        """
        if isinstance(chosen, slice):
            x_raw, y = self.x[chosen], self.y[chosen]
        elif flips is None and self._scales(len(chosen)):
            y = self.y.index_select(0, chosen)  # first, as it checks the positions
            return Batch(self._scaled(chosen), y)
        else:
            positions = _moved(chosen, self.x.device)
            x_raw, y = self.x.index_select(0, positions), self.y.index_select(0, positions)
        x_raw, y = _moved(x_raw, self.device), _moved(y, self.device)
        if flips is not None:
            mirrored = _moved(flips, self.device).view(-1, *([1] * (x_raw.dim() - 1)))
            x_raw = torch.where(mirrored, x_raw.flip(-1), x_raw)
        # A slice is a view of the data, which a model that works in place must not reach.
        x_ready = x_raw.to(torch.float32, copy=isinstance(chosen, slice))
        if not self.raw:
            torch.addcmul(self.offset, x_ready, self.factor, out=x_ready)
        return Batch(x_ready, y)

    def _scales(self, count: int) -> bool:
        """Whether a compiled pass is to take so many examples: bytes on a CPU, and many."""
        bytes_here = self.x.dtype is torch.uint8 and not self.raw and self.device.type == "cpu"
        return bytes_here and count * self.x[:1].numel() >= parallel.WORTHWHILE

    def _scaled(self, chosen: Tensor) -> Tensor:
        """The examples (count, *shape) at some positions in one pass over bytes."""
        from byzray.kernels import scaled_examples  # here, as it loads a compiler

        ready, channels = torch.empty(len(chosen), *self.x.shape[1:]), self.factor.numel()
        examples, out = (one.reshape(len(one), channels, -1).numpy() for one in (self.x, ready))
        arguments = (examples, chosen.numpy(), self.factor.flatten().numpy(), self.offset.flatten().numpy(), out)
        over_ranges(len(chosen), 1, lambda begin, end: scaled_examples(*arguments, begin, end))
        return ready


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From pinned memory, a copy to a GPU does not wait for the work queued there."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor that shares an array's memory if that is contiguous, and is never written to: what Ray maps into memory
    is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))
