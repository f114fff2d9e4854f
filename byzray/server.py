"""The server: parameters, adversary, aggregation, update, and the study of them.

Shapes in names: N submissions, of which H honest, D parameters, B examples a batch.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator
from byzray.cohort import Contribution
from byzray.datasets import Data
from byzray.gradients import Network
from byzray.metrics import METRIC_COLUMNS, Moments, Past, metric_row
from byzray.momentum import ServerMomentum
from byzray.randomness import generator
from byzray.sampling import Preparation
from byzray.setups import Setup

# Examples evaluated at once: enough to fill the device, few enough for the activations of large networks.
EVALUATION_BATCH = 1000


class Server:
    """The other half of a step.

    Args:
        setup: the setup of the run.
        data: the data set, of which the server needs the test examples.
        device: where it computes.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.

    Attributes:
        step_number: how many steps have been taken.
        honest_HD: where the honest submissions are to be put before :meth:`step`.
    """

    def __init__(self, setup: Setup, data: Data, device: torch.device, parameters: Tensor | None = None) -> None:
        self.setup = setup
        self.data = data
        self.device = device
        self.network = Network(setup, data.shape, data.classes, device)
        given = self.network.initial_parameters() if parameters is None else parameters.to(device, copy=True)
        self.theta_D = given
        self.origin_D = given.clone()
        self.momentum = ServerMomentum(setup.momentum, self.network.dimension, device)
        self.submissions_ND = torch.zeros(setup.workers, self.network.dimension, device=device)
        self.honest_HD = self.submissions_ND[: setup.honest]
        self.step_number = 0
        study = setup.study
        length = min(study.past, max(setup.steps, 1)) if study is not None else 0
        self.past = Past(length, setup.momentum.beta, self.network.dimension, device) if length else None
        self.prepare = Preparation(data, device)
        self._rows: list[Tensor] = []

    def point(self) -> Tensor:
        """The point (D,) to send to the workers at this step."""
        return self.momentum.point(self.theta_D, self.setup.learning_rate.at(self.step_number))

    def step(self, contributions: Sequence[Contribution]) -> None:
        """Attack, aggregate, measure and update, given the cohorts' contributions in the order of their workers."""
        setup, step = self.setup, self.step_number
        sampled = self._sampled(contributions)
        self.momentum.receive(self.honest_HD)
        rule = setup.aggregator.at_step(setup.seed, step)
        attack_FD = self._attack(rule)
        aggregate = self._aggregate(rule)
        loss = torch.cat([contribution.losses_K for contribution in contributions]).mean()
        self._record(loss, sampled, attack_FD, aggregate)
        direction_D = self.momentum.direction(aggregate.vector_D)
        self.theta_D.sub_(direction_D, alpha=setup.learning_rate.at(step))
        self.step_number += 1

    def _sampled(self, contributions: Sequence[Contribution]) -> Moments | None:
        if self.past is None:
            return None
        reported = [contribution.sampled for contribution in contributions if contribution.sampled is not None]
        return Moments.merge(reported) if reported else Moments.of(self.honest_HD)

    def _attack(self, rule: Aggregator) -> Tensor | None:
        setup = self.setup
        if setup.attack is None:
            return None
        attack_FD = setup.attack(self.honest_HD, setup.byzantine, rule, setup.tolerated)
        expected = (setup.byzantine, self.network.dimension)
        if attack_FD.shape != expected:
            raise ValueError(
                f"attack {setup.attack.label()} returned shape {tuple(attack_FD.shape)}, expected {expected}"
            )
        self.submissions_ND[setup.honest :] = attack_FD
        return attack_FD

    def _aggregate(self, rule: Aggregator) -> Aggregate:
        aggregate = rule.aggregate(self.submissions_ND, self.setup.tolerated)
        found, expected = aggregate.vector_D.shape, (self.network.dimension,)
        if found != expected:
            raise ValueError(f"aggregator {rule.label()} returned shape {tuple(found)}, expected {expected}")
        return aggregate

    def _record(self, loss: Tensor, sampled: Moments | None, attack_FD: Tensor | None, aggregate: Aggregate) -> None:
        """Keep this step's row on the device; :meth:`take_rows` fetches many at once."""
        row = [loss.double().reshape(1)]
        if self.past is not None and sampled is not None:
            shared = self.setup.momentum.placement == "update"
            honest = sampled if shared else Moments.of(self.honest_HD)
            attack = None if attack_FD is None else Moments.of(attack_FD)
            distance = torch.linalg.vector_norm(self.theta_D - self.origin_D)
            values = metric_row(
                sampled=sampled,
                honest=honest,
                attack=attack,
                defense_D=aggregate.vector_D,
                distance=distance,
                past=self.past,
            )
            row += [values, self._acceptance(aggregate.rows_K)]
        self._rows.append(torch.cat(row))

    def _acceptance(self, rows_K: Tensor | None) -> Tensor:
        """The share of the selected rows that are Byzantine, (1,) float64; NaN for rules that select none."""
        if rows_K is None:
            return torch.full((1,), math.nan, dtype=torch.float64, device=self.device)
        return (rows_K >= self.setup.honest).double().mean().reshape(1)

    def columns(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`take_rows` returns: all 24 with a study, the first three without."""
        return METRIC_COLUMNS if self.past is not None else METRIC_COLUMNS[:3]

    def take_rows(self) -> NDArray[np.float64]:
        """The rows of the steps since the last call, (steps, columns)."""
        count = len(self._rows)
        steps = np.arange(self.step_number - count, self.step_number)
        points = steps * (self.setup.batch_size * self.setup.honest * self.setup.local_steps)
        if not count:
            return np.empty((0, len(self.columns())))
        values = torch.stack(self._rows).cpu().numpy()
        self._rows.clear()
        return np.column_stack([steps, points, values])

    def evaluate(self, buffers: dict[str, Tensor] | None = None) -> float:
        """The share of the whole test set that is classified correctly; NaN without test examples.

        Args:
            buffers: BatchNorm's statistics to use, those of the initialised model by default.
        """
        size = len(self.data.x_test)
        if not size:
            return math.nan
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        flips = None
        if self.data.flip_test:
            flips = generator(self.setup.seed, "test flip", self.step_number).random(size) < 0.5
        for start in range(0, size, EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            mirrored = None if flips is None else flips[part]
            batch = self.prepare(self.data.x_test[part], self.data.y_test[part], mirrored)
            correct += self.network.correct(self.theta_D, batch, buffers)
        return correct.item() / size

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, beside the setup and the workers' state."""
        state = {"theta": self.theta_D, "origin": self.origin_D}
        if self.momentum.buffer_D is not None:
            state["server momentum"] = self.momentum.buffer_D
        if self.past is not None:
            state |= {"past means": self.past.means_PD, "past sum": self.past.sum_D}
        return state

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take up, at a step, a state that :meth:`state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.step_number = step
        if self.past is not None:
            self.past.steps = step
