"""The three placements of momentum: what a worker keeps, and what the server keeps.

Shapes in names: K workers of a cohort, H honest workers, D parameters.
"""

import torch
from torch import Tensor

from byzray.setups import Momentum


class WorkerMomentum:
    """The workers' half: with placement `worker` each keeps a buffer, which is also what it submits."""

    def __init__(self, momentum: Momentum, workers: int, dimension: int, device: torch.device) -> None:
        self.momentum = momentum
        self.buffers_KD = torch.zeros(workers, dimension, device=device) if momentum.placement == "worker" else None

    def points(self, point_D: Tensor, rate: float) -> Tensor:
        """Where gradients are taken: (D,) if all workers share the point, (K, D) if each looks ahead by itself."""
        if self.buffers_KD is None or not self.momentum.nesterov:
            return point_D
        return torch.add(point_D, self.buffers_KD, alpha=-self.momentum.beta * rate)

    def submit(self, sampled_KD: Tensor) -> Tensor:
        """The submissions (K, D): the gradients, or the momentum buffers after they took the gradients in."""
        if self.buffers_KD is None:
            return sampled_KD
        return self.buffers_KD.mul_(self.momentum.beta).add_(sampled_KD, alpha=1 - self.momentum.dampening)


class ServerMomentum:
    """The server's half: with placements `server` and `update` it keeps one buffer, v."""

    def __init__(self, momentum: Momentum, dimension: int, device: torch.device) -> None:
        self.momentum = momentum
        self.buffer_D = torch.zeros(dimension, device=device) if momentum.placement != "worker" else None

    def point(self, theta_D: Tensor, rate: float) -> Tensor:
        """The point (D,) that the server sends to the workers."""
        if self.buffer_D is None or not self.momentum.nesterov:
            return theta_D
        return torch.add(theta_D, self.buffer_D, alpha=-self.momentum.beta * rate)

    def receive(self, honest_HD: Tensor) -> None:
        """Turn what honest workers sent into their submissions, in place."""
        if self.momentum.placement == "server":
            assert self.buffer_D is not None
            honest_HD.mul_(1 - self.momentum.dampening).add_(self.buffer_D, alpha=self.momentum.beta)

    def direction(self, aggregate_D: Tensor) -> Tensor:
        """What the parameters move against, given the aggregate; not to be modified."""
        if self.buffer_D is None:
            return aggregate_D
        if self.momentum.placement == "server":
            return self.buffer_D.copy_(aggregate_D)
        return self.buffer_D.mul_(self.momentum.beta).add_(aggregate_D, alpha=1 - self.momentum.dampening)
