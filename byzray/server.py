"""The server: parameters, adversary, aggregation, update, and the study of them.

Shapes in names: N submissions, of which H honest, D parameters, B examples a batch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator
from byzray.cohort import Contribution, expect_like
from byzray.contract import Contract
from byzray.datasets import Data
from byzray.divergence import Divergence, reason, unsound
from byzray.gradients import Network
from byzray.metrics import METRIC_COLUMNS, Moments, Past, metric_row
from byzray.momentum import ServerMomentum
from byzray.phases import Stopwatch
from byzray.randomness import generator
from byzray.sampling import Batch, Examples
from byzray.setups import Setup

# Examples evaluated at once: enough to fill the device, few enough for the activations of large networks. Dense ones
# have few, and on a GPU the fewest passes are the fastest.
EVALUATION_BATCH = 1000
DENSE_EVALUATION_BATCH = 10_000

# Up to so many values, test examples of dense networks, which would take about as long to prepare as to classify, are
# kept as prepared: 64 MB.
KEPT_TEST_VALUES = 2**24


class Observed(NamedTuple):
    """What the study needs of a step and the next step destroys. Nothing of it looks into the matrix of submissions.

    Attributes:
        sampled: the moments of the gradients before momentum; none: the workers report them.
        honest: those of the honest submissions that the rule sees.
        attack: those of the Byzantine submissions, if there are any.
        aggregate: what the rule returned.
        distance: ||theta - initial theta|| before the update.
    """

    sampled: Moments | None
    honest: Moments
    attack: Moments | None
    aggregate: Aggregate
    distance: Tensor


class Server:
    """The other half of a step.

    Args:
        setup: the setup of the run.
        data: the data set, of which the server needs the test examples.
        device: where it computes.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.

    Attributes:
        step_number: how many steps have been taken.
        honest_HD: where the honest submissions are to be put before :meth:`step`. With placement `worker` they stay
            there as they are: each is also its worker's momentum.
        diverged: where and why the parameters became non-finite since the start, or since a state was restored, as far
            as the steps were looked at: by :meth:`take_rows`, or by :meth:`study` where the run stops for it.
        halted: whether the run ends with the last step, as it diverged and is set to stop there.
        watch: takes the time of attack, aggregate (with the update), study and evaluate.
    """

    def __init__(self, setup: Setup, data: Data, device: torch.device, parameters: Tensor | None = None) -> None:
        self.setup = setup
        self.data = data
        self.device = device
        self.network = Network(setup, data.shape, data.classes, device)
        self.watch = Stopwatch(device)
        given = self.network.initial_parameters() if parameters is None else parameters.to(device, copy=True)
        self.theta_D = given
        self.origin_D = given.clone()
        self.momentum = ServerMomentum(setup.momentum, self.network.dimension, device)
        self.keep_submissions_in(torch.zeros(setup.workers, self.network.dimension, device=device))
        self.step_number = 0
        study = setup.study
        length = min(study.past, max(setup.steps, 1)) if study is not None else 0
        self.past = Past(length, setup.momentum.beta, self.network.dimension, device) if length else None
        self.contract = Contract(device)
        self.examples = Examples(data, data.x_test, data.y_test, device)
        self._keeps_tests = setup.model.dense and not data.flip_test and data.x_test.size <= KEPT_TEST_VALUES
        self._kept_tests: list[Batch] | None = None
        # Of each step, what :meth:`take_rows` returns of it, and whether aggregate and parameters were finite after it.
        self._rows: list[Tensor] = []
        self._unsound_2 = torch.zeros(2, dtype=torch.float64, device=device)
        self._watch()

    def _watch(self) -> None:
        """Look out for divergence from here on; parameters that are not finite already do not diverge."""
        self.diverged: Divergence | None = None
        self.halted = False
        self._was_finite = not unsound(self.theta_D).isnan().item()

    def keep_submissions_in(self, submissions_ND: Tensor) -> None:
        """Take this matrix from now on, into which others can write."""
        self.submissions_ND = submissions_ND
        self.honest_HD = submissions_ND[: self.setup.honest]

    def point(self) -> Tensor:
        """The point (D,) to send to the workers at this step."""
        return self.momentum.point(self.theta_D, self.setup.learning_rate.at(self.step_number))

    def step(self, contributions: Sequence[Contribution]) -> None:
        """Take a step, given the cohorts' contributions in the order of their workers."""
        self.keep(self.step_row(contributions))

    def step_row(self, contributions: Sequence[Contribution]) -> Tensor:
        """Take a step and return its row for :meth:`keep`. Only a rule or an attack can wait for a GPU here."""
        return self._row(self._update(), contributions)

    def keep(self, row: Tensor) -> None:
        """Keep a step's row on the device; :meth:`take_rows` fetches many at once."""
        self._halt_if(row[-1])
        self._rows.append(row)
        self._explain_halt()

    def count_replayed(self) -> None:
        """Count a step that was replayed on the device, where nothing here has seen it."""
        self.step_number += 1
        if self.past is not None:
            self.past.steps += 1

    def update(self) -> Observed | None:
        """Attack, aggregate and update. The next point can then be sent, before :meth:`study` has seen this step."""
        observed = self._update()
        self._halt_if(self._unsound_2[1])
        return observed

    def _update(self) -> Observed | None:
        setup, step = self.setup, self.step_number
        self.watch.start()
        came_ND = self._received(step)
        honest_HD = came_ND[: len(came_ND) - setup.byzantine]
        seen = self.past is not None and not setup.workers_report_moments
        sampled = Moments.of(honest_HD) if seen else None
        self.watch.lap("study")
        self.momentum.receive(honest_HD)
        rule = setup.aggregator.at_step(setup.seed, step)
        attack_FD = self._attack(rule, came_ND, honest_HD)
        self.watch.lap("attack")
        submissions_ND = self._filled(came_ND, step)
        aggregate = self.contract.aggregate(rule, submissions_ND, setup.tolerated)
        self.watch.lap("aggregate")
        observed = None if self.past is None else self._observe(sampled, submissions_ND, attack_FD, aggregate)
        self.watch.lap("study")
        direction_D = self.momentum.direction(aggregate.vector_D)
        self.theta_D.sub_(direction_D, alpha=setup.learning_rate.at(step))
        self.step_number += 1
        self._unsound_2 = torch.stack([unsound(aggregate.vector_D), unsound(self.theta_D)]).double()
        self.watch.lap("aggregate")
        return observed

    def _halt_if(self, unsound: Tensor) -> None:
        """Halt if the parameters became non-finite (NaN says so) and the run stops for it."""
        if self.setup.divergence == "stop" and self._was_finite:
            self.halted = bool(unsound.isnan())

    def _received(self, step: int) -> Tensor:
        """The rows that come at a step, honest and Byzantine: all, or a copy without those that are missing."""
        if not self.setup.missing_at(step):
            return self.submissions_ND
        return self.submissions_ND[self._coming(self.setup.workers, step)]

    def _coming(self, workers: int, step: int) -> list[int]:
        """Those of the first workers whose submissions come at a step; those of Byzantine ones, the last, do."""
        missing = self.setup.missing_at(step)
        return [worker for worker in range(workers) if worker not in missing]

    def _filled(self, came_ND: Tensor, step: int) -> Tensor:
        """What the rule sees: the submissions that came, with zeros for the others if the setup says so."""
        faults = self.setup.faults
        if faults is None or faults.missing != "zero" or len(came_ND) == self.setup.workers:
            return came_ND
        submissions_ND = torch.zeros_like(self.submissions_ND)
        submissions_ND[self._coming(self.setup.workers, step)] = came_ND
        return submissions_ND

    def _attack(self, rule: Aggregator, submissions_ND: Tensor, honest_HD: Tensor) -> Tensor | None:
        """The Byzantine submissions, put after the honest ones; none without an attack."""
        setup = self.setup
        if setup.attack is None:
            return None
        attack_FD = self.contract.attack(setup.attack, honest_HD, setup.byzantine, rule, setup.tolerated)
        submissions_ND[len(honest_HD) :] = attack_FD
        return attack_FD

    def _observe(
        self, sampled: Moments | None, submissions_ND: Tensor, attack_FD: Tensor | None, aggregate: Aggregate
    ) -> Observed:
        honest_HD = submissions_ND[: len(submissions_ND) - self.setup.byzantine]
        # With momentum in the update the sampled gradients are submitted; zeros may stand for missing ones.
        same = sampled is not None and sampled.size == len(honest_HD) and self.setup.momentum.placement == "update"
        attack = None if attack_FD is None else Moments.of(attack_FD)
        # Cloned, as they may be views of submissions, which the next ones overwrite.
        if attack is not None:
            attack = attack._replace(mean_D=attack.mean_D.clone())
        return Observed(
            sampled=sampled,
            honest=sampled if sampled is not None and same else Moments.of(honest_HD),
            attack=attack,
            aggregate=aggregate._replace(vector_D=aggregate.vector_D.clone()),
            distance=torch.linalg.vector_norm(self.theta_D - self.origin_D),
        )

    def study(self, observed: Observed | None, contributions: Sequence[Contribution]) -> None:
        """Keep the row of a step that :meth:`update` took.

        Args:
            observed: what :meth:`update` returned; none without a study.
            contributions: the cohorts' contributions to that step, in the order of their workers.
        """
        self.watch.start()
        self._rows.append(self._row(observed, contributions))
        self._explain_halt()

    def _row(self, observed: Observed | None, contributions: Sequence[Contribution]) -> Tensor:
        """What :meth:`take_rows` returns of the last step, and whether aggregate and parameters were finite."""
        losses_H = torch.cat([contribution.losses_K for contribution in contributions])
        if self.setup.missing_at(self.step_number - 1):
            losses_H = losses_H[self._coming(self.setup.honest, self.step_number - 1)]
        row = [losses_H.mean().double().reshape(1)]
        if self.past is not None and observed is not None:
            reported = [contribution.sampled for contribution in contributions if contribution.sampled is not None]
            values = metric_row(
                sampled=Moments.merge(reported) if observed.sampled is None else observed.sampled,
                honest=observed.honest,
                attack=observed.attack,
                defense_D=observed.aggregate.vector_D,
                distance=observed.distance,
                past=self.past,
            )
            row += [values, self._acceptance(observed.aggregate.rows_K, observed.honest.size)]
        whole = torch.cat([*row, self._unsound_2])
        self.watch.lap("study")
        return whole

    def _explain_halt(self) -> None:
        if self.halted:
            self._look_for_divergence(self.step_number - 1, self._rows[-1][None].cpu().numpy())

    def _acceptance(self, rows_K: Tensor | None, honest: int) -> Tensor:
        """The share of the selected rows that are Byzantine, (1,) float64; NaN for rules that select none."""
        if rows_K is None:
            return torch.full((1,), math.nan, dtype=torch.float64, device=self.device)
        return (rows_K >= honest).double().mean().reshape(1)

    def columns(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`take_rows` returns: all 24 with a study, the first three without."""
        return METRIC_COLUMNS if self.past is not None else METRIC_COLUMNS[:3]

    def take_rows(self) -> NDArray[np.float64]:
        """The rows of the steps since the last call, (steps, columns)."""
        count = len(self._rows)
        steps = np.arange(self.step_number - count, self.step_number)
        gradients = steps * self.setup.honest
        if self.setup.faults is not None:
            gradients -= self.setup.faults.missing_before(steps)
        points = gradients * (self.setup.batch_size * self.setup.local_steps)
        if not count:
            return np.empty((0, len(self.columns())))
        values = torch.stack(self._rows).cpu().numpy()
        self._rows.clear()
        self._look_for_divergence(self.step_number - count, values)
        return np.column_stack([steps, points, values[:, :-2]])

    def _look_for_divergence(self, step: int, values: NDArray[np.float64]) -> None:
        """Look whether the parameters became non-finite, given the values kept of a step and of those after it."""
        diverged = np.flatnonzero(np.isnan(values[:, -1]))
        if self.diverged is not None or not self._was_finite or not len(diverged):
            return
        first = int(diverged[0])
        *known, of_aggregate, _ = values[first].tolist()
        row = dict(zip(self.columns()[2:], known, strict=True))
        self.diverged = Divergence(step + first, reason(self.setup, step + first, row, not math.isnan(of_aggregate)))

    def evaluate(self, buffers: dict[str, Tensor] | None = None) -> float:
        """The share of the whole test set that is classified correctly; NaN without test examples.

        Args:
            buffers: BatchNorm's statistics to use, those of the initialised model by default.
        """
        size = len(self.data.x_test)
        if not size:
            return math.nan
        self.watch.start()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        if self._kept_tests is None and self._keeps_tests:
            self._kept_tests = list(self._tests())
        for batch in self._kept_tests or self._tests():
            correct += self.network.correct(self.theta_D, batch, buffers)
        accuracy = correct.item() / size
        self.watch.lap("evaluate")
        return accuracy

    def _tests(self) -> Iterator[Batch]:
        """The test examples in batches."""
        size = len(self.data.x_test)
        flips = None
        if self.data.flip_test:
            flips = generator(self.setup.seed, "test flip", self.step_number).random(size) < 0.5
        on_gpu = self.device.type == "cuda"
        at_once = DENSE_EVALUATION_BATCH if on_gpu and self.setup.model.dense else EVALUATION_BATCH
        for start in range(0, size, at_once):
            part = slice(start, start + at_once)
            yield self.examples.batch(part, None if flips is None else torch.from_numpy(flips[part]))

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, beside the setup and the workers' state."""
        state = {"theta": self.theta_D, "origin": self.origin_D}
        if self.momentum.buffer_D is not None:
            state["server momentum"] = self.momentum.buffer_D
        if self.past is not None:
            state |= {"past means": self.past.means_PD, "past sum": self.past.sum_D}
        return state

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take up, at a step, a state that :meth:`state` returned; whether an earlier step diverged is forgotten.

        Raises:
            ValueError: it is that of another setup.
        """
        known = self.state()
        expect_like(state, known)
        for name, tensor in known.items():
            tensor.copy_(state[name])
        self.step_number = step
        if self.past is not None:
            self.past.resume(step)
        self._watch()
