"""What goes between server and workers at each step.

The server sends a point; every worker actor answers with its submissions, straight into their rows of the server's
matrix, and a report (losses, and moments where the study needs them). All of it lies on a board: with a worker actor on
the server's machine the board is shared, and only signals are sent; with others torch.distributed carries its parts.

Ranks: the server is 0, worker actors follow. Shapes in names: K workers of an actor, N submissions, of which H honest,
D parameters.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.group import Group
from actors.near import shared_among
from byzray.cohort import Contribution
from byzray.metrics import Moments
from byzray.server import Server

# Parts of a board begin at cache lines, as tensors of their own would. In numbers.
ALIGNMENT = 16


class Layout(NamedTuple):
    """What a board holds.

    Attributes:
        submissions: N.
        dimension: D.
        cohorts: which workers the actors of ranks 1, 2, ... hold.
        moments: whether reports hold moments.
    """

    submissions: int
    dimension: int
    cohorts: tuple[range, ...]
    moments: bool

    def alone(self, index: int) -> "Layout":
        """The layout for one cohort by itself."""
        own = range(len(self.cohorts[index]))
        return Layout(len(own), self.dimension, (own,), self.moments)

    def sizes(self) -> list[int]:
        """How many numbers the parts of a board have: matrix, point, and two sets of reports."""
        reports = [len(workers) + (1 + self.dimension if self.moments else 0) for workers in self.cohorts]
        return [self.submissions * self.dimension, self.dimension, *reports, *reports]

    def total(self) -> int:
        """How many numbers a board has."""
        return sum(_aligned(size) for size in self.sizes())


class Board:
    """The numbers of a step, as parts of one vector.

    Reports have two places, used by turns: workers write those of the next step while the server reads these.

    Args:
        layout: which parts.
        numbers: at least as many as the layout says.

    Attributes:
        submissions_ND: the matrix of submissions, the honest ones first.
        point_D: the point.
    """

    def __init__(self, layout: Layout, numbers: Tensor) -> None:
        parts, start = [], 0
        for size in layout.sizes():
            parts.append(numbers[start : start + size])
            start += _aligned(size)
        matrix, self.point_D, *self._reports = parts
        self.submissions_ND = matrix.view(layout.submissions, layout.dimension)
        self._cohorts = layout.cohorts

    def rows(self, index: int) -> Tensor:
        """The rows (K, D) of a cohort's submissions."""
        workers = self._cohorts[index]
        return self.submissions_ND[workers.start : workers.stop]

    def report(self, index: int, step: int) -> Tensor:
        """A cohort's report on a step."""
        return self._reports[index + step % 2 * len(self._cohorts)]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_report(contribution: Contribution, report: Tensor) -> None:
    """Write a contribution into a report."""
    workers = len(contribution.losses_K)
    report[:workers].copy_(contribution.losses_K)
    if contribution.sampled is not None:
        report[workers].copy_(contribution.sampled.scatter)
        report[workers + 1 :].copy_(contribution.sampled.mean_D)


def unpack_report(report: Tensor, workers: int) -> Contribution:
    """The contribution that :func:`pack_report` wrote; it looks into the report."""
    if len(report) == workers:
        return Contribution(report, None)
    return Contribution(report[:workers], Moments(workers, report[workers + 1 :], report[workers]))


class ServerChannel:
    """The server's end. For each step: :meth:`send`, :meth:`receive`, :meth:`contributions`.

    Args:
        group: the connections.
        server: whose matrix the submissions go to.
        layout: of the board.
    """

    def __init__(self, group: Group, server: Server, layout: Layout) -> None:
        self.server = server
        self.cohorts = layout.cohorts
        self._near = group.near(server.device)
        if self._near:
            numbers = shared_among(list(self._near.values()), layout.total())
        else:
            numbers = torch.zeros(layout.total(), device=server.device if group.direct(server.device) else "cpu")
        self.board = Board(layout, numbers)
        # gloo and shared memory are of the host.
        self._copied = self.board.point_D.device.type != server.device.type
        if not self._copied:
            server.keep_submissions_in(self.board.submissions_ND)
        self._step = 0
        self._submissions: list[dist.Work | None] = []
        self._reports: list[dist.Work | None] = []

    def send(self) -> None:
        """Send the server's point, and be ready for the answers."""
        self._step = self.server.step_number
        board = self.board
        board.point_D.copy_(self.server.point())
        for index in range(len(self.cohorts)):
            rank = index + 1
            if rank in self._near:
                self._near[rank].signal()
            else:
                # In this order: NCCL does one after the other what goes between two ranks.
                self._submissions.append(dist.isend(board.point_D, rank))
                self._submissions.append(dist.irecv(board.rows(index), rank))
                self._reports.append(dist.irecv(board.report(index, self._step), rank))

    def receive(self) -> None:
        """Wait until the submissions are in the server's matrix."""
        for near in self._near.values():
            near.wait()
        _finish(self._submissions)
        if self._copied:
            honest_HD = self.server.honest_HD
            honest_HD.copy_(self.board.submissions_ND[: len(honest_HD)])

    def contributions(self) -> list[Contribution]:
        """The contributions of the step, in the order of their workers; valid until the next but one point is sent."""
        _finish(self._reports)
        return [
            unpack_report(self.board.report(index, self._step).to(self.server.device), len(workers))
            for index, workers in enumerate(self.cohorts)
        ]


class WorkerChannel:
    """A worker actor's end.

    Args:
        group: the connections.
        layout: of the server's board.
        device: where the cohort computes.

    Attributes:
        submissions_KD: where the cohort puts its submissions.
    """

    def __init__(self, group: Group, layout: Layout, device: torch.device) -> None:
        self.device = device
        self._index = group.rank - 1
        self._server = group.near(device).get(0)
        if self._server is not None:
            self._board = Board(layout, self._server.shared(layout.total()))
        else:
            layout, self._index = layout.alone(self._index), 0
            self._board = Board(layout, torch.zeros(layout.total(), device=device if group.direct(device) else "cpu"))
        self._rows_KD = self._board.rows(self._index)
        same = self._rows_KD.device.type == device.type
        self.submissions_KD = self._rows_KD if same else torch.zeros_like(self._rows_KD, device=device)

    def receive(self) -> Tensor:
        """The point that the server sends."""
        if self._server is not None:
            self._server.wait()
        else:
            dist.recv(self._board.point_D, src=0)
        return self._board.point_D.to(self.device)

    def send(self, contribution: Contribution, step: int) -> None:
        """Answer with the submissions and the report."""
        report = self._board.report(self._index, step)
        if self.submissions_KD is not self._rows_KD:
            self._rows_KD.copy_(self.submissions_KD)
        pack_report(contribution, report)
        if self._server is not None:
            self._server.signal()
        else:
            _finish([dist.isend(self._rows_KD, dst=0), dist.isend(report, dst=0)])


def _finish(transfers: list[dist.Work | None]) -> None:
    for transfer in transfers:
        if transfer is not None:
            transfer.wait()
    transfers.clear()
