"""Workers that live together: their data, their gradients, their momentum buffers.

Shapes in names: K workers of the cohort, D parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from byzray.contract import poisoned
from byzray.datasets import Data
from byzray.division import worker_stream
from byzray.gradients import Gradients, Network, clip
from byzray.metrics import Moments
from byzray.momentum import WorkerMomentum
from byzray.randomness import generator, key
from byzray.sampling import Batch, TrainingStream
from byzray.setups import Setup
from byzray.state import State, expect_like
from byzray.timings import Stopwatch


class Contribution(NamedTuple):
    """What a cohort reports in addition to its submissions.

    Attributes:
        losses_K: each worker's loss, regularisation included (averaged over local steps); what stands there for a
            worker whose submission is missing does not matter.
        sampled: the moments of the gradients before momentum, where the server cannot see them: with a study and
            placement `worker`. Those of the honest workers whose submissions come, maybe none.
    """

    losses_K: Tensor
    sampled: Moments | None


class Cohort:
    """K workers that train: honest ones, and Byzantine ones if the attack has them train.

    Args:
        setup: the setup of the run.
        workers: which of the workers that train these are, consecutive; honest ones come first.
        data: the data set.
        device: where they compute.
        stream: their batches, by default those of the setup's split.

    Attributes:
        watch: takes the time of gradient (with momentum, and the batch if it was not drawn before), draw and study.
    """

    def __init__(
        self, setup: Setup, workers: range, data: Data, device: torch.device, stream: TrainingStream | None = None
    ) -> None:
        self.setup = setup
        self.workers = workers
        self.watch = Stopwatch(device)
        network = Network(setup, data.shape, data.classes, device)
        self.gradients = Gradients(network, setup)
        self.stream = stream or worker_stream(data, setup, device)
        self.momentum = WorkerMomentum(setup.momentum, len(workers), network.dimension, device)
        self.classes = data.classes
        self._drawn: tuple[int, Sequence[Batch]] | None = None
        # Only a model in training mode changes its buffers; each worker then has its own.
        self.buffers = [network.buffers() if setup.model.training else {} for _ in workers]
        # Without a momentum buffer a worker submits its gradient, which is computed where the submission goes.
        kept = self.momentum.buffers_KD
        self._sampled_KD = None if kept is None else torch.empty_like(kept)
        self._previous_KD = torch.empty_like(kept) if kept is not None and setup.momentum.name == "mvr" else None

    def draw(self, step: int) -> None:
        """Draw and prepare the first batch of a step ahead of it."""
        self.watch.start()
        self.give(step, [self.stream.batch(self.workers, step)])
        self.watch.lap("draw")

    def give(self, step: int, batches: Sequence[Batch]) -> None:
        """Use these batches for the first local steps of a step, rather than draw them then."""
        self._drawn = step, batches

    def step(self, point: Tensor, step: int, out_KD: Tensor) -> Contribution:
        """Take one step.

        A worker that crashes or hangs at this step, while the server does without it, stays as it was: all are
        computed, so that nothing changes for the others, and its part is undone. Its momentum stands in its row.

        Args:
            point: what the server sent: the point (D,), or with `mvr` this one and the previous one, (2, D).
            step: the number of the step, from 0.
            out_KD: where the submissions go.
        """
        self.watch.start()
        missing = [worker - self.workers.start for worker in self.setup.missing_at(step) if worker in self.workers]
        undone = self._undone(missing, step) if missing else []
        rate = self.setup.rate_at(step)
        previous_KD = self._previous(point, step)
        points = self.momentum.points(point if point.dim() == 1 else point[0], rate)
        sampled_KD = out_KD if self._sampled_KD is None else self._sampled_KD
        losses_K = self._sample(points, step, rate, sampled_KD)
        submissions_KD = self.momentum.submit(sampled_KD, previous_KD)
        for tensor, before in undone:
            tensor.copy_(before)
        if submissions_KD.data_ptr() != out_KD.data_ptr():
            out_KD.copy_(submissions_KD)
        self.watch.lap("gradient")
        if not self.setup.workers_report_moments:
            return Contribution(losses_K, None)
        honest = max(0, min(self.workers.stop, self.setup.honest) - self.workers.start)
        studied_KD = sampled_KD[[i for i in range(honest) if i not in missing]] if missing else sampled_KD[:honest]
        moments = _moments(studied_KD)
        self.watch.lap("study")
        return Contribution(losses_K, moments)

    def _previous(self, point: Tensor, step: int) -> Tensor | None:
        """With `mvr` the gradients (K, D) of a step's batches at the previous point; none at the first step."""
        if self._previous_KD is None or not step:
            return None
        buffers = [{name: buffer.clone() for name, buffer in own.items()} for own in self.buffers]
        self._gradient(point[1], step, 0, self._previous_KD, buffers)
        return self._previous_KD

    def _undone(self, missing: list[int], step: int) -> list[tuple[Tensor, Tensor]]:
        """What the missing workers keep, but for those that compute, with a copy of each tensor."""
        faults = self.setup.faults
        assert faults is not None
        idle = [i for i in missing if faults.at(step)[self.workers[i]] != "silent"]
        kept = [buffer for i in idle for buffer in self.buffers[i].values()]
        if self.momentum.buffers_KD is not None:
            kept += [self.momentum.buffers_KD[i] for i in idle]
        return [(tensor, tensor.clone()) for tensor in kept]

    def _sample(self, points: Tensor, step: int, rate: float, out_KD: Tensor) -> Tensor:
        """Each worker's clipped gradient, or the sum of those it met on its local steps; returns the (K,) losses."""
        losses_K = self._gradient(points, step, 0, out_KD)
        if self.setup.local_steps == 1:
            return losses_K
        here_KD = points.expand_as(out_KD).clone()
        gradients_KD = out_KD.clone()
        for local_step in range(1, self.setup.local_steps):
            here_KD.sub_(gradients_KD, alpha=rate)
            losses_K = losses_K + self._gradient(here_KD, step, local_step, gradients_KD)
            out_KD.add_(gradients_KD)
        return losses_K / self.setup.local_steps

    def _gradient(
        self, points: Tensor, step: int, local_step: int, out_KD: Tensor, buffers: list[State] | None = None
    ) -> Tensor:
        """Clipped gradients into `out_KD`, and the losses (K,); BatchNorm's statistics of the workers move, or those
        given instead."""
        batch = self._batch(step, local_step)
        draw = step * self.setup.local_steps + local_step
        training = self.setup.model.training
        masks = [key(self.setup.seed, "dropout", worker, draw) if training else 0 for worker in self.workers]
        losses_K = self.gradients(points, batch, out_KD, masks, self.buffers if buffers is None else buffers)
        if self.setup.clip is not None:
            clip(out_KD, self.setup.clip)
        return losses_K

    def _batch(self, step: int, local_step: int) -> Batch:
        if self._drawn is not None and self._drawn[0] == step and local_step < len(self._drawn[1]):
            batch = self._drawn[1][local_step]
        else:
            batch = self.stream.batch(self.workers, step, local_step)
        return self._poisoned(batch, step, local_step)

    def _poisoned(self, batch: Batch, step: int, local_step: int) -> Batch:
        """A batch with the part of Byzantine workers as the attack has it."""
        attack, honest = self.setup.attack, self.setup.honest
        byzantine = [i for i, worker in enumerate(self.workers) if worker >= honest and worker in self.setup.trained]
        if attack is None or not byzantine:
            return batch
        purpose = "poison" if attack.is_builtin() else f"{attack.written()} poison"
        parts = [Batch(x, y) for x, y in zip(*(one.chunk(len(self.workers)) for one in batch), strict=True)]
        for i in byzantine:
            worker = self.workers[i]
            drawn = generator(self.setup.seed, purpose, worker, step, local_step)
            parts[i] = poisoned(attack, parts[i], self.classes, worker, step, drawn)
        return Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))

    def state(self) -> State:
        """What the next step depends on: tensors whose first dimension is K."""
        state = {}
        if self.momentum.buffers_KD is not None:
            state["worker momentum"] = self.momentum.buffers_KD
        for name in self.buffers[0]:
            state[f"buffer {name}"] = torch.stack([buffers[name] for buffers in self.buffers])
        return state

    def restore(self, state: State) -> None:
        """Restore a state that :meth:`state` returned.

        Raises:
            ValueError: it is that of another setup.
        """
        expect_like(state, self.state())
        if self.momentum.buffers_KD is not None:
            self.momentum.buffers_KD.copy_(state["worker momentum"])
        for i, buffers in enumerate(self.buffers):
            for name, buffer in buffers.items():
                buffer.copy_(state[f"buffer {name}"][i])


def _moments(sampled_KD: Tensor) -> Moments:
    if len(sampled_KD) > 1:
        return Moments.of(sampled_KD)
    if not len(sampled_KD):
        return Moments(0, sampled_KD.sum(dim=0), sampled_KD.sum())
    # One vector is its own mean, and saves most of the passes. What is not finite has no scatter: NaN.
    only_D = sampled_KD[0]
    return Moments(1, only_D, (only_D - only_D).sum())
