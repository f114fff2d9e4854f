"""What goes between server and workers at each step.

The server sends a point; every worker actor answers with its submissions, straight into their rows of the server's
matrix, and a report (losses, moments where the study needs them, BatchNorm's statistics). All of it lies on a board:
with a worker actor on the server's machine the board is shared, and only signals are sent; with others
torch.distributed carries its parts.

What workers carry from step to step is thereby known to the server, and stays so until the next step is complete: with
placement `worker` submissions are the momentum buffers, and the matrix has two places, used by turns. So a worker that
was lost can be handed its state back.

Ranks: the server is 0, worker actors follow. Shapes in names: K workers of an actor, T workers in all, N submissions,
D parameters.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.group import Group, exchanging
from actors.near import shared_among
from actors.supervision import START_SECONDS
from byzray.cohort import Cohort, Contribution
from byzray.gradients import Network
from byzray.metrics import Moments
from byzray.server import Server
from byzray.setups import Setup
from byzray.state import State

# Parts of a board begin at cache lines, as tensors of their own would. In numbers.
ALIGNMENT = 16

BUFFER = "buffer "


class Layout(NamedTuple):
    """What a board holds.

    Attributes:
        submissions: N.
        dimension: D.
        cohorts: which workers the actors of ranks 1, 2, ... hold.
        moments: whether reports hold moments.
        carried: how many numbers BatchNorm's statistics take, of each worker.
        turns: how many places the matrix of submissions has.
        points: how many points the server sends.
    """

    submissions: int
    dimension: int
    cohorts: tuple[range, ...]
    moments: bool = False
    carried: int = 0
    turns: int = 1
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
            carried=sum(-(-buffer.nbytes // torch.float32.itemsize) for buffer in buffers.values()),
            turns=2 if setup.momentum.placement == "worker" else 1,
            points=2 if setup.momentum.name == "mvr" else 1,
        )

    def alone(self, index: int) -> "Layout":
        """The layout for one cohort by itself."""
        own = range(len(self.cohorts[index]))
        return self._replace(submissions=len(own), cohorts=(own,), turns=1)

    def sizes(self) -> list[int]:
        """How many numbers the parts of a board have: point and flag, matrices, and two sets of reports."""
        reports = [
            len(workers) * (1 + self.carried) + (1 + self.dimension if self.moments else 0) for workers in self.cohorts
        ]
        return [self.points * self.dimension + 1, *[self.submissions * self.dimension] * self.turns, *reports, *reports]

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
        self._matrices = [matrix.view(shape) for matrix in rest[: layout.turns]]
        self._reports = rest[layout.turns :]
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


def pack_report(contribution: Contribution, buffers: State, report: Tensor) -> None:
    """Write a contribution, and the workers' buffers (K, ...), into a report."""
    workers = len(contribution.losses_K)
    report[:workers].copy_(contribution.losses_K)
    end = pack_buffers(buffers, report, workers)
    if contribution.sampled is not None:
        report[end].copy_(contribution.sampled.scatter)
        report[end + 1 :].copy_(contribution.sampled.mean_D)


def pack_buffers(buffers: State, report: Tensor, workers: int) -> int:
    """Write the buffers of a cohort's workers, byte by byte, into its report; returns where they end there."""
    end = workers
    for buffer in buffers.values():
        size = _numbers(buffer)
        report[end : end + size].view(torch.uint8)[: buffer.nbytes].copy_(_bytes(buffer))
        end += size
    return end


def unpack_buffers(report: Tensor, workers: int, like: State) -> State:
    """The buffers (K, ...) in the report of a cohort, on the CPU.

    Args:
        report: the report, on any device.
        workers: K.
        like: the buffers of one worker.
    """
    found, end = {}, workers
    for name, buffer in like.items():
        stacked = torch.empty(workers, *buffer.shape, dtype=buffer.dtype)
        size = _numbers(stacked)
        _bytes(stacked).copy_(report[end : end + size].view(torch.uint8)[: stacked.nbytes])
        found[name] = stacked
        end += size
    return found


def _numbers(stacked: Tensor) -> int:
    """How many numbers of a report the buffers (K, ...) of a cohort take; whole ones for each worker."""
    return len(stacked) * -(-stacked[0].nbytes // torch.float32.itemsize)


def _bytes(stacked: Tensor) -> Tensor:
    """The bytes of buffers, a view if they are contiguous."""
    return stacked.flatten().view(torch.uint8)


def unpack_report(report: Tensor, layout: Layout, index: int, came: int) -> Contribution:
    """The contribution that :func:`pack_report` wrote; it looks into the report.

    Args:
        report: the report, on any device.
        layout: of the board.
        index: of the cohort.
        came: from how many of its honest workers a submission came.
    """
    workers = len(layout.cohorts[index])
    moments = report[workers * (1 + layout.carried) :]
    return Contribution(report[:workers], Moments(came, moments[1:], moments[0]) if layout.moments else None)


class ServerChannel:
    """The server's end. For each step: :meth:`send`, :meth:`receive`, :meth:`contributions`.

    What :meth:`receive` does not complete has changed nothing on the server.

    Args:
        group: the connections.
        server: whose matrix the submissions go to.
        cohorts: which workers the actors of ranks 1, 2, ... hold.

    Attributes:
        patience: for how many seconds the workers may be silent in a step.
    """

    def __init__(self, group: Group, server: Server, cohorts: Sequence[range]) -> None:
        self.server = server
        self.patience = START_SECONDS
        self.layout = layout = Layout.of(server.setup, server.network, cohorts)
        self._near = group.near(server.device)
        self._timed = not group.direct(server.device)  # NCCL would keep the host waiting for what it waits for
        if self._near:
            numbers = shared_among(list(self._near.values()), layout.total())
        else:
            numbers = torch.zeros(layout.total(), device=server.device if group.direct(server.device) else "cpu")
        self.board = Board(layout, numbers)
        # gloo and shared memory are of the host.
        self._copied = self.board.message.device.type != server.device.type
        self._step = 0
        self._sent = 0.0
        self._transfers: list[Any] = []  # torch.distributed's works
        self._buffers = server.network.buffers() if layout.carried else {}  # of one worker, as initialised
        self.keep({f"{BUFFER}{name}": _repeated(one, len(server.setup.trained)) for name, one in self._buffers.items()})

    def send(self) -> None:
        """Send the server's point, and be ready for the answers."""
        self._step = self.server.step_number
        self._sent = time.monotonic()
        board = self.board
        if not self._copied:
            self.server.keep_submissions_in(board.submissions(self._step))
        board.point.copy_(self.server.point())
        with _letting_go(self._transfers):
            for index in range(len(self.layout.cohorts)):
                rank = index + 1
                if rank in self._near:
                    self._near[rank].signal()
                else:
                    # In this order: NCCL does one after the other what goes between two ranks.
                    self._transfers.append(dist.isend(board.message, rank))
                    self._transfers.append(dist.irecv(board.rows(index, self._step), rank))
                    self._transfers.append(dist.irecv(board.report(index, self._step), rank))

    def end(self) -> None:
        """Tell the workers that no step follows."""
        self.board.message[-1] = 1
        with _letting_go(self._transfers):
            for index in range(len(self.layout.cohorts)):
                rank = index + 1
                if rank in self._near:
                    self._near[rank].signal()
                else:
                    self._transfers.append(dist.isend(self.board.message, rank))
            self._finish(time.monotonic() + self.patience)

    def receive(self) -> None:
        """Wait until the submissions are in the server's matrix, and the reports there."""
        # From when the point was sent: so the server gives up before its workers do, who began to wait later.
        until = self._sent + self.patience
        with _letting_go(self._transfers):
            for near in self._near.values():
                near.wait(until)
            self._finish(until)
        if self._copied:
            trained_TD = self.server.trained_TD
            trained_TD.copy_(self.board.submissions(self._step)[: len(trained_TD)])

    def _finish(self, until: float) -> None:
        _finish(self._transfers, until if self._timed else None)

    def contributions(self) -> list[Contribution]:
        """The contributions of the step, in the order of their workers; valid until the next but one point is sent."""
        setup = self.server.setup
        return [
            unpack_report(
                self.board.report(index, self._step).to(self.server.device),
                self.layout,
                index,
                setup.present(workers, self._step),
            )
            for index, workers in enumerate(self.layout.cohorts)
        ]

    def kept(self) -> State:
        """The state of all workers before the server's next step, as they sent it."""
        before, trained = self.server.step_number - 1, len(self.server.setup.trained)
        state = {}
        if self.layout.turns == 2:
            state["worker momentum"] = self.board.submissions(before)[:trained].cpu().clone()
        parts = [
            unpack_buffers(self.board.report(index, before), len(workers), self._buffers)
            for index, workers in enumerate(self.layout.cohorts)
        ]
        return state | {f"{BUFFER}{name}": torch.cat([part[name] for part in parts]) for name in self._buffers}

    def keep(self, state: State) -> None:
        """Keep the state that all workers begin with, as if they had sent it."""
        before = self.server.step_number - 1
        if self.layout.turns == 2 and "worker momentum" in state:
            momentum_TD = state["worker momentum"]
            self.board.submissions(before)[: len(momentum_TD)].copy_(momentum_TD)
        for index, workers in enumerate(self.layout.cohorts):
            own = {name: state[f"{BUFFER}{name}"][workers.start : workers.stop] for name in self._buffers}
            pack_buffers(own, self.board.report(index, before), len(workers))


def _repeated(one: Tensor, workers: int) -> Tensor:
    return torch.stack([one] * workers)


class WorkerChannel:
    """A worker actor's end.

    Args:
        group: the connections.
        cohort: the workers.
        layout: of the server's board.
        device: where the cohort computes.

    Attributes:
        patience: for how many seconds the server may be silent.
    """

    def __init__(self, group: Group, cohort: Cohort, layout: Layout, device: torch.device) -> None:
        self.cohort = cohort
        self.device = device
        self.patience = START_SECONDS
        self._timed = not group.direct(device)
        self._index = group.rank - 1
        self._server = group.near(device).get(0)
        if self._server is not None:
            self._board = Board(layout, self._server.shared(layout.total()))
        else:
            layout, self._index = layout.alone(self._index), 0
            self._board = Board(layout, torch.zeros(layout.total(), device=device if group.direct(device) else "cpu"))
        rows_KD = self._board.rows(self._index, 0)
        # Only then a message need be looked at, which on a GPU means to wait for it.
        self._may_end = cohort.setup.divergence == "stop"
        self._copied_KD = None if rows_KD.device.type == device.type else torch.zeros_like(rows_KD, device=device)

    def receive(self) -> Tensor | None:
        """The point that the server sends; none if no step follows."""
        if self._server is not None:
            self._server.wait(time.monotonic() + self.patience)
        else:
            self._transfer(lambda: [dist.irecv(self._board.message, src=0)])
        ended = self._may_end and bool(self._board.message[-1])
        return None if ended else self._board.point.to(self.device)

    def submissions(self, step: int) -> Tensor:
        """Where the cohort puts its submissions (K, D)."""
        return self._board.rows(self._index, step) if self._copied_KD is None else self._copied_KD

    def send(self, contribution: Contribution, step: int) -> None:
        """Answer with the submissions and the report."""
        rows_KD, report = self._board.rows(self._index, step), self._board.report(self._index, step)
        if self._copied_KD is not None:
            rows_KD.copy_(self._copied_KD)
        buffers = {name: buffer for name, buffer in self.cohort.state().items() if name.startswith(BUFFER)}
        pack_report(contribution, buffers, report)
        if self._server is not None:
            self._server.signal()
        else:
            self._transfer(lambda: [dist.isend(rows_KD, dst=0), dist.isend(report, dst=0)])

    def _transfer(self, begin: Callable[[], list[Any]]) -> None:
        """Begin some transfers, and wait until they are done."""
        transfers: list[Any] = []
        with _letting_go(transfers):
            transfers += begin()
            _finish(transfers, time.monotonic() + self.patience if self._timed else None)


@contextmanager
def _letting_go(transfers: list[Any]) -> Iterator[None]:
    """Let go of all transfers if something fails: they would keep connections open, and the other actors waiting."""
    try:
        with exchanging():
            yield
    except BaseException:
        transfers.clear()
        raise


def _finish(transfers: list[Any], until: float | None) -> None:
    """Wait for transfers, until some time of the monotonic clock; None: as long as the group does."""
    for index in range(len(transfers)):  # no name for the one that fails, which the traceback would keep
        if until is None:
            transfers[index].wait()
        else:
            transfers[index].wait(timedelta(seconds=max(1e-3, until - time.monotonic())))
    transfers.clear()
