"""The numbers that server and workers exchange in a step, and where each of them lies.

Shapes in names: K workers of an actor, N submissions, D parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from byzray.cohort import Contribution
from byzray.gradients import Network
from byzray.metrics import Moments
from byzray.setups import Setup
from byzray.state import State

# The parts begin at cache lines, as separate tensors would. In numbers.
ALIGNMENT = 16


class Layout(NamedTuple):
    """The sizes of what is exchanged.

    Attributes:
        submissions: N.
        dimension: D.
        cohorts: the workers of the actors of ranks 1, 2, ...
        moments: whether reports hold moments.
        statistics: how many numbers BatchNorm's statistics take, of each worker.
        slots: how many matrices of submissions there are, used in turn.
        points: how many points the server sends.
    """

    submissions: int
    dimension: int
    cohorts: tuple[range, ...]
    moments: bool = False
    statistics: int = 0
    slots: int = 1
    points: int = 1

    @classmethod
    def of(cls, setup: Setup, network: Network, cohorts: Sequence[range]) -> "Layout":
        """The layout for a run."""
        buffers = network.buffers() if setup.model.training else {}
        return cls(
            submissions=setup.workers,
            dimension=network.dimension,
            cohorts=tuple(cohorts),
            moments=setup.workers_report_moments,
            statistics=sum(-(-buffer.nbytes // torch.float32.itemsize) for buffer in buffers.values()),
            slots=2 if setup.momentum.placement == "worker" else 1,
            points=2 if setup.momentum.name == "mvr" else 1,
        )

    def alone(self, index: int) -> "Layout":
        """The layout for one cohort alone."""
        own = range(len(self.cohorts[index]))
        return self._replace(submissions=len(own), cohorts=(own,), slots=1)

    def sizes(self) -> list[int]:
        """How many numbers each part has: point and flag, matrices, and two sets of reports."""
        reports = [
            len(workers) * (1 + self.statistics) + (1 + self.dimension if self.moments else 0)
            for workers in self.cohorts
        ]
        return [self.points * self.dimension + 1, *[self.submissions * self.dimension] * self.slots, *reports, *reports]

    def total(self) -> int:
        """How many numbers all parts take."""
        return sum(_aligned(size) for size in self.sizes())


class SharedBuffers:
    """What is exchanged, as parts of one vector.

    Reports have two slots, used in turn: workers write those of the next step while the server reads these.

    Args:
        layout: the parts.
        numbers: a vector with at least `layout.total()` elements.

    Attributes:
        message: the point, and a number that is not 0 if no step follows.
        point: the point (D,), or the points that the server sends, (points, D).
    """

    def __init__(self, layout: Layout, numbers: Tensor) -> None:
        parts, start = [], 0
        for size in layout.sizes():
            parts.append(numbers[start : start + size])
            start += _aligned(size)
        self.message, *rest = parts
        self.point = self.message[:-1].view(layout.points, -1).squeeze(0)
        shape = (layout.submissions, layout.dimension)
        self._matrices = [matrix.view(shape) for matrix in rest[: layout.slots]]
        self._reports = rest[layout.slots :]
        self._cohorts = layout.cohorts

    def submissions(self, step: int) -> Tensor:
        """The matrix (N, D) of a step's submissions, the honest ones first."""
        return self._matrices[step % len(self._matrices)]

    def rows(self, index: int, step: int) -> Tensor:
        """The rows (K, D) of a cohort's submissions."""
        workers = self._cohorts[index]
        return self.submissions(step)[workers.start : workers.stop]

    def report(self, index: int, step: int) -> Tensor:
        """A cohort's report on a step."""
        return self._reports[index + step % 2 * len(self._cohorts)]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_report(contribution: Contribution, statistics: State, report: Tensor) -> None:
    """Write a contribution, and BatchNorm's statistics of its workers (K, ...), into a report."""
    workers = len(contribution.losses_K)
    report[:workers].copy_(contribution.losses_K)
    end = pack_statistics(statistics, report, workers)
    if contribution.sampled is not None:
        report[end].copy_(contribution.sampled.scatter)
        report[end + 1 :].copy_(contribution.sampled.mean_D)


def pack_statistics(statistics: State, report: Tensor, workers: int) -> int:
    """Write the statistics of a cohort's workers, byte by byte, into its report; returns where they end there."""
    end = workers
    for stacked in statistics.values():
        size = _numbers(stacked)
        report[end : end + size].view(torch.uint8)[: stacked.nbytes].copy_(_bytes(stacked))
        end += size
    return end


def unpack_statistics(report: Tensor, workers: int, like: State) -> State:
    """The statistics (K, ...) in the report of a cohort, on the CPU.

    Args:
        report: the report, on any device.
        workers: K.
        like: the statistics of one worker.
    """
    found, end = {}, workers
    for name, one in like.items():
        stacked = torch.empty(workers, *one.shape, dtype=one.dtype)
        size = _numbers(stacked)
        _bytes(stacked).copy_(report[end : end + size].view(torch.uint8)[: stacked.nbytes])
        found[name] = stacked
        end += size
    return found


def _numbers(stacked: Tensor) -> int:
    """How many numbers of a report the statistics (K, ...) of a cohort take; whole ones for each worker."""
    return len(stacked) * -(-stacked[0].nbytes // torch.float32.itemsize)


def _bytes(stacked: Tensor) -> Tensor:
    """The bytes of a tensor, a view if it is contiguous."""
    return stacked.flatten().view(torch.uint8)


def unpack_report(report: Tensor, layout: Layout, index: int, present: int) -> Contribution:
    """The contribution that :func:`pack_report` wrote, as views of the report.

    Args:
        report: the report, on any device.
        layout: of the buffers.
        index: of the cohort.
        present: how many of its honest workers submitted.
    """
    workers = len(layout.cohorts[index])
    moments = report[workers * (1 + layout.statistics) :]
    return Contribution(report[:workers], Moments(present, moments[1:], moments[0]) if layout.moments else None)
