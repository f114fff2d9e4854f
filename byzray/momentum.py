"""The three placements of momentum: what a worker keeps, and what the server keeps.

Shapes in names: K workers of a cohort, H honest workers, D parameters.
"""

import torch
from torch import Tensor

from byzray.setups import Momentum
from byzray.state import State


class WorkerMomentum:
    """The workers' half: with placement `worker` each keeps a buffer, which is also what it submits."""

    def __init__(self, momentum: Momentum, workers: int, dimension: int, device: torch.device) -> None:
        self.momentum = momentum
        self.buffers_KD = torch.zeros(workers, dimension, device=device) if momentum.placement == "worker" else None

    def keep_in(self, rows_KD: Tensor) -> None:
        """Keep the buffers in these rows from now on, so that submissions need no copy."""
        if self.buffers_KD is not None:
            self.buffers_KD = rows_KD.copy_(self.buffers_KD)

    def points(self, point_D: Tensor, rate: float) -> Tensor:
        """Where gradients are taken: (D,) if all workers share the point, (K, D) if each looks ahead by itself."""
        if self.buffers_KD is None or not self.momentum.nesterov:
            return point_D
        return torch.add(point_D, self.buffers_KD, alpha=-self.momentum.beta * rate)

    def submit(self, sampled_KD: Tensor, previous_KD: Tensor | None = None) -> Tensor:
        """The submissions (K, D): the gradients, or the momentum buffers after they took the gradients in.

        Args:
            sampled_KD: the gradients.
            previous_KD: with `mvr` those of the same batches at the previous point; none at the first step.
        """
        if self.buffers_KD is None:
            return sampled_KD
        if self.momentum.name == "mvr":
            if previous_KD is None:
                return self.buffers_KD.copy_(sampled_KD)
            return self.buffers_KD.sub_(previous_KD).mul_(self.momentum.beta).add_(sampled_KD)
        if not self.momentum.dampening:  # in one pass
            return torch.add(sampled_KD, self.buffers_KD, alpha=self.momentum.beta, out=self.buffers_KD)
        return self.buffers_KD.mul_(self.momentum.beta).add_(sampled_KD, alpha=1 - self.momentum.dampening)


class ServerMomentum:
    """The server's half: with placements `server` and `update` it keeps one buffer, v; with `mvr`, whose workers need
    it, the previous point.

    Args:
        momentum: of the setup.
        theta_D: the initial parameters.
        weight_decay: the factor of the parameters in what they are moved by.
    """

    def __init__(self, momentum: Momentum, theta_D: Tensor, weight_decay: float) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.buffer_D = torch.zeros_like(theta_D) if momentum.placement != "worker" else None
        self.previous_D = theta_D.clone() if momentum.name == "mvr" else None

    def point(self, theta_D: Tensor, rate: float) -> Tensor:
        """The point (D,) that the server sends to the workers; with `mvr` this one and the previous one, (2, D)."""
        if self.previous_D is not None:
            return torch.stack((theta_D, self.previous_D))
        if self.buffer_D is None or not self.momentum.nesterov:
            return theta_D
        return torch.add(theta_D, self.buffer_D, alpha=-self.momentum.beta * rate)

    def receive(self, received_TD: Tensor) -> None:
        """Turn what workers sent into their submissions, in place."""
        if self.momentum.placement == "server":
            assert self.buffer_D is not None
            received_TD.mul_(1 - self.momentum.dampening).add_(self.buffer_D, alpha=self.momentum.beta)

    def move(self, theta_D: Tensor, aggregate_D: Tensor, rate: float) -> None:
        """Move the parameters, in place, by the aggregate."""
        if self.previous_D is not None:
            self.previous_D.copy_(theta_D)
        if self.momentum.placement == "server":
            assert self.buffer_D is not None
            self.buffer_D.copy_(aggregate_D)  # without the decay, which is not the workers'
        direction_D = aggregate_D
        if self.weight_decay:
            direction_D = torch.add(aggregate_D, theta_D, alpha=self.weight_decay)
        if self.momentum.placement == "update":  # as torch.optim.SGD, but for its first dampened step
            assert self.buffer_D is not None
            direction_D = self.buffer_D.mul_(self.momentum.beta).add_(direction_D, alpha=1 - self.momentum.dampening)
        theta_D.sub_(direction_D, alpha=rate)

    def state(self) -> State:
        """What the next step depends on."""
        state = {"server momentum": self.buffer_D, "previous point": self.previous_D}
        return {name: tensor for name, tensor in state.items() if tensor is not None}
