"""The exchange between server and workers in a step.

The server sends a point; every worker actor answers with its submissions, written straight into their rows of the
server's matrix, and a report (losses, moments where the study needs them, BatchNorm's statistics).

The server thus knows the state that workers carry from step to step, and keeps it until the next step is complete: with
placement `worker` submissions are the momentum buffers, and there are two matrices, used in turn. So a worker that was
lost can get its state back.

Ranks: the server is 0, worker actors follow. Shapes in names: K workers of an actor, T workers that train, N
submissions, D parameters.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from actors.buffers import Layout, SharedBuffers, pack_report, pack_statistics, unpack_report, unpack_statistics
from actors.connections import Connections
from actors.supervision import START_SECONDS
from byzray.cohort import Contribution
from byzray.state import State

MOMENTUM = "worker momentum"
STATISTICS = "buffer "  # prefix of BatchNorm's statistics in a state


class ServerChannel:
    """The server's end. For each step: :meth:`submissions`, :meth:`send`, :meth:`receive`.

    Args:
        connections: of this actor.
        layout: of what is exchanged.
        device: where the server computes.
        statistics: BatchNorm's, of one worker, as initialised.

    Attributes:
        timeout: the workers count as lost if they send nothing for this many seconds in a step.
    """

    def __init__(self, connections: Connections, layout: Layout, device: torch.device, statistics: State) -> None:
        self.timeout = START_SECONDS
        self.layout = layout
        self.device = device
        self._connections = connections
        self._buffers = SharedBuffers(layout, connections.allocate(layout.total(), device))
        self._ranks = range(1, len(layout.cohorts) + 1)
        self._trained = layout.cohorts[-1].stop
        self._sent = 0.0
        # gloo and shared memory are on the host.
        copied = self._buffers.message.device.type != device.type
        self._copied_ND = torch.zeros(layout.submissions, layout.dimension, device=device) if copied else None
        self._statistics = {f"{STATISTICS}{name}": one for name, one in statistics.items()}
        initial = {name: torch.stack([one] * self._trained) for name, one in self._statistics.items()}
        self.set_worker_state(initial, 0)

    def submissions(self, step: int) -> Tensor:
        """The matrix (N, D) into which the submissions of a step come."""
        return self._buffers.submissions(step) if self._copied_ND is None else self._copied_ND

    def send(self, point: Tensor, step: int) -> None:
        """Send the point of a step, and start receiving the answers."""
        self._sent = time.monotonic()
        buffers = self._buffers
        buffers.point.copy_(point)
        for index, rank in enumerate(self._ranks):
            # NCCL executes what goes between two ranks in this order.
            self._connections.send(rank, buffers.message)
            self._connections.receive(rank, buffers.rows(index, step), buffers.report(index, step))

    def end(self) -> None:
        """Tell the workers that no step follows."""
        self._buffers.message[-1] = 1
        for rank in self._ranks:
            self._connections.send(rank, self._buffers.message)
        self._connections.wait(time.monotonic() + self.timeout, self.device)

    def receive(self, step: int, present: Sequence[int]) -> list[Contribution]:
        """Wait until the submissions of a step are in its matrix; returns the cohorts' contributions.

        They are valid until the point of the next step but one is sent.

        Args:
            step: the step.
            present: how many honest workers of each cohort submit.
        """
        # Counted from when the point was sent: so the server times out before its workers, who began to wait later.
        self._connections.wait(self._sent + self.timeout, self.device)
        buffers = self._buffers
        if self._copied_ND is not None:
            self._copied_ND[: self._trained].copy_(buffers.submissions(step)[: self._trained])
        return [
            unpack_report(buffers.report(index, step).to(self.device), self.layout, index, count)
            for index, count in enumerate(present)
        ]

    def worker_state(self, step: int) -> State:
        """The state of all workers before a step, as they sent it."""
        state = {}
        if self.layout.slots == 2:
            state[MOMENTUM] = self._buffers.submissions(step - 1)[: self._trained].cpu().clone()
        parts = [
            unpack_statistics(self._buffers.report(index, step - 1), len(workers), self._statistics)
            for index, workers in enumerate(self.layout.cohorts)
        ]
        return state | {name: torch.cat([part[name] for part in parts]) for name in self._statistics}

    def set_worker_state(self, state: State, step: int) -> None:
        """Keep the state of all workers before a step, as if they had sent it."""
        if self.layout.slots == 2 and MOMENTUM in state:
            self._buffers.submissions(step - 1)[: self._trained].copy_(state[MOMENTUM])
        for index, workers in enumerate(self.layout.cohorts):
            own = {name: state[name][workers.start : workers.stop] for name in self._statistics}
            pack_statistics(own, self._buffers.report(index, step - 1), len(workers))


class WorkerChannel:
    """A worker actor's end. For each step: :meth:`receive`, :meth:`submissions`, :meth:`send`.

    Args:
        connections: of this actor.
        layout: of what the server and all worker actors exchange.
        device: where the cohort computes.
        may_end: whether the server may end the run early.

    Attributes:
        timeout: the server counts as lost if it sends nothing for this many seconds.
    """

    def __init__(self, connections: Connections, layout: Layout, device: torch.device, may_end: bool) -> None:
        self.timeout = START_SECONDS
        self.device = device
        self._connections = connections
        self._may_end = may_end
        self._index = connections.rank - 1
        if not connections.shares_memory(0, device):
            layout, self._index = layout.alone(self._index), 0
        self._buffers = SharedBuffers(layout, connections.allocate(layout.total(), device))
        rows_KD = self._buffers.rows(self._index, 0)
        self._copied_KD = None if rows_KD.device.type == device.type else torch.zeros_like(rows_KD, device=device)

    def receive(self) -> Tensor | None:
        """The point that the server sends; None if no step follows."""
        self._connections.receive(0, self._buffers.message)
        self._connections.wait(time.monotonic() + self.timeout, self.device)
        # The flag is read only if it may be set: on a GPU that waits for the device.
        ended = self._may_end and bool(self._buffers.message[-1])
        return None if ended else self._buffers.point.to(self.device)

    def submissions(self, step: int) -> Tensor:
        """Where the cohort writes its submissions (K, D)."""
        return self._buffers.rows(self._index, step) if self._copied_KD is None else self._copied_KD

    def send(self, contribution: Contribution, state: State, step: int) -> None:
        """Send the submissions and the report, with BatchNorm's statistics from the cohort's state."""
        rows_KD, report = self._buffers.rows(self._index, step), self._buffers.report(self._index, step)
        if self._copied_KD is not None:
            rows_KD.copy_(self._copied_KD)
        statistics = {name: stacked for name, stacked in state.items() if name.startswith(STATISTICS)}
        pack_report(contribution, statistics, report)
        self._connections.send(0, rows_KD, report)
        self._connections.wait(time.monotonic() + self.timeout, self.device)
