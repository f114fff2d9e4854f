"""What goes between server and workers at each step, carried by torch.distributed.

The server broadcasts a point; every worker actor sends back its submissions, straight into their rows of the server's
matrix, and a report (losses, and moments where the study needs them).

Ranks: the server is 0, worker actors follow. Shapes in names: K workers of an actor, H honest workers, D parameters.
"""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from byzray.cohort import Contribution
from byzray.metrics import Moments

# By then a peer that sends nothing counts as lost. The slowest step of the largest models must fit in.
TIMEOUT = timedelta(minutes=10)


class Group:
    """This actor's membership in its fleet's process group.

    gloo carries everything: it works on CPUs, and where several actors share a GPU, which NCCL refuses.
    """

    def __init__(self) -> None:
        self._store: dist.TCPStore | None = None

    def serve(self, host: str) -> int:
        """Open the store through which the group meets; returns its port."""
        self.leave()
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        return self._store.port

    def join(self, host: str, port: int, rank: int, size: int) -> None:
        """Join the group; returns once all members have."""
        if rank:
            self.leave()
            self._store = dist.TCPStore(host, port, is_master=False, timeout=TIMEOUT)
        if host == LOOPBACK and sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", store=self._store, rank=rank, world_size=size, timeout=TIMEOUT)

    def leave(self) -> None:
        """Leave the group, which makes the others' pending transfers fail at once."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None


LOOPBACK = "127.0.0.1"


def report_size(workers: int, dimension: int, moments: bool) -> int:
    """How many numbers a report takes."""
    return workers + (1 + dimension if moments else 0)


def pack_report(contribution: Contribution) -> Tensor:
    """A contribution as one vector, on the CPU."""
    parts = [contribution.losses_K]
    if contribution.sampled is not None:
        parts += [contribution.sampled.scatter.reshape(1), contribution.sampled.mean_D]
    return torch.cat(parts).cpu()


def unpack_report(report: Tensor, workers: int, device: torch.device) -> Contribution:
    """The inverse of :func:`pack_report`."""
    report = report.to(device)
    if len(report) == workers:
        return Contribution(report, None)
    return Contribution(report[:workers], Moments(workers, report[workers + 1 :], report[workers]))


class ServerChannel:
    """The server's end.

    Args:
        cohorts: which workers the actors of ranks 1, 2, ... hold.
        honest_HD: where submissions go.
        moments: whether reports hold moments.
    """

    def __init__(self, cohorts: Sequence[range], honest_HD: Tensor, moments: bool) -> None:
        self.cohorts = cohorts
        self.honest_HD = honest_HD
        # gloo reads and writes host memory.
        self._inbox_HD = honest_HD if honest_HD.device.type == "cpu" else torch.empty_like(honest_HD, device="cpu")
        dimension = honest_HD.shape[1]
        self._reports = [torch.empty(report_size(len(workers), dimension, moments)) for workers in cohorts]

    def exchange(self, point_D: Tensor) -> list[Contribution]:
        """Broadcast the point, gather the submissions into `honest_HD`; returns the contributions in order."""
        dist.broadcast(point_D.cpu(), src=0)
        pending = []
        for rank, (workers, report) in enumerate(zip(self.cohorts, self._reports, strict=True), start=1):
            pending.append(dist.irecv(self._inbox_HD[workers.start : workers.stop], src=rank))
            pending.append(dist.irecv(report, src=rank))
        for transfer in pending:
            if transfer is not None:
                transfer.wait()
        if self._inbox_HD is not self.honest_HD:
            self.honest_HD.copy_(self._inbox_HD)
        return [
            # Cloned, as the buffers are filled again at the next step.
            unpack_report(report.clone(), len(workers), self.honest_HD.device)
            for workers, report in zip(self.cohorts, self._reports, strict=True)
        ]


class WorkerChannel:
    """A worker actor's end."""

    def __init__(self, dimension: int, device: torch.device) -> None:
        self.device = device
        self._point_D = torch.empty(dimension)

    def receive(self) -> Tensor:
        """The point that the server broadcasts."""
        dist.broadcast(self._point_D, src=0)
        return self._point_D.to(self.device)

    def send(self, submissions_KD: Tensor, contribution: Contribution) -> None:
        """Answer with the submissions and the report."""
        dist.send(submissions_KD.cpu(), dst=0)
        dist.send(pack_report(contribution), dst=0)
