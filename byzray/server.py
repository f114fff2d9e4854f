"""The server: it receives submissions, lets the adversary answer, aggregates, and moves the parameters.

Shapes in names: N submissions, of which H honest and F Byzantine, T trained workers, D parameters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.adversary import Adversary
from byzray.arrivals import filled, lacking, received
from byzray.cohort import Contribution
from byzray.contract import Contract
from byzray.datasets import Data
from byzray.division import training
from byzray.evaluation import Accuracies, Evaluation
from byzray.gradients import Network
from byzray.momentum import ServerMomentum
from byzray.root_worker import RootWorker
from byzray.setups import Setup
from byzray.state import State, below, expect_like, keep, prefixed
from byzray.step import Step
from byzray.study import Observed, Study
from byzray.submissions import Matrix
from byzray.timings import Stopwatch


class Server:
    """The other half of a step.

    Args:
        setup: the setup of the run.
        data: the data set, of which the server needs the test examples.
        device: where it computes.
        parameters: the initial parameters (D,); by default PyTorch's initialisation for the setup's seed.

    Attributes:
        step_number: how many steps have been taken.
        trained_TD: where the submissions of all workers that train are to be put before :meth:`update`. With placement
            `worker` they stay there as they are: each is also its worker's momentum.
        study: its rows, and whether the run diverged.
        watch: takes the time of attack, aggregate (with the update), study and evaluate.
    """

    def __init__(self, setup: Setup, data: Data, device: torch.device, parameters: Tensor | None = None) -> None:
        self.setup = setup
        self.device = device
        self.network = Network(setup, data.shape, data.classes, device)
        self.watch = Stopwatch(device)
        given = self.network.initial_parameters() if parameters is None else parameters.to(device, copy=True)
        self.theta_D = given
        self.momentum = ServerMomentum(setup.momentum, self.theta_D, setup.weight_decay)
        self.keep_submissions_in(torch.zeros(setup.workers, self.network.dimension, device=device))
        self.step_number = 0
        self.study = Study(setup, self.theta_D)
        self.evaluation = Evaluation(setup, data, self.network)
        self.root = RootWorker(setup, data, device) if setup.defence.root_examples else None
        self.contract = Contract(device)
        self._notes = setup.split.notes(setup.split.stream(training(data, setup)))
        self.defence_state = self.contract.start_defence(setup.defence, self._step(setup.workers), self.theta_D)
        self.adversary = Adversary(setup, self.contract, self._step(setup.workers), self.theta_D)

    def keep_submissions_in(self, submissions_ND: Tensor) -> None:
        """Take this matrix from now on, into which others can write."""
        self.submissions_ND = submissions_ND
        self.trained_TD = submissions_ND[: len(self.setup.trained)]

    def point(self) -> Tensor:
        """The point (D,) to send to the workers at this step, or the points, see :class:`ServerMomentum`."""
        return self.momentum.point(self.theta_D, self.setup.rate_at(self.step_number))

    def _step(self, n: int, root_D: Tensor | None = None) -> Step:
        """This step, at which n submissions come, with that of the server's own worker if it has one."""
        setup, number = self.setup, self.step_number
        return Step(setup.seed, number, n, setup.tolerated, setup.rate_at(number), self.theta_D, root_D)

    def step(self, contributions: Sequence[Contribution]) -> None:
        """Take a step, given the cohorts' contributions in the order of their workers."""
        self.keep(self.step_row(contributions))

    def step_row(self, contributions: Sequence[Contribution]) -> Tensor:
        """Take a step and return its row for :meth:`keep`. Only a rule or an attack can wait for a GPU here."""
        return self._row(self._update(), contributions)

    def keep(self, row: Tensor) -> None:
        """Keep the row of the last step."""
        self.study.keep(row, self.step_number - 1)

    def update(self) -> Observed | None:
        """Take a step but for its row: the next point can be sent before :meth:`record` has seen this step."""
        observed = self._update()
        self.study.halt_if_diverged()
        return observed

    def record(self, observed: Observed | None, contributions: Sequence[Contribution]) -> None:
        """Keep the row of a step that :meth:`update` took, given what that returned and the contributions."""
        self.watch.start()
        self.keep(self._row(observed, contributions))

    def _row(self, observed: Observed | None, contributions: Sequence[Contribution]) -> Tensor:
        row = self.study.row(observed, contributions, self.step_number - 1)
        self.watch.lap("study")
        return row

    def _update(self) -> Observed | None:
        """Receive, attack, aggregate, move; returns what the study sees of it."""
        setup = self.setup
        self.watch.start()
        came_ND, workers_H = received(setup, self.submissions_ND, self.step_number)
        sampled = None if setup.workers_report_moments else self.study.spread(came_ND[: len(workers_H)])
        self.watch.lap("study")
        self.momentum.receive(came_ND[: len(workers_H) + len(setup.trained) - setup.honest])
        self.watch.lap("attack")
        root_D = self._root_submission()
        self.watch.lap("root")
        # Pre-aggregators mix in the zeros of missing submissions, so an adversary that evaluates the defence sees them.
        if setup.pre and lacking(setup, len(came_ND)):
            came_ND, workers_H = filled(setup, came_ND, self.step_number), tuple(range(setup.honest))
        # With momentum in the update the sampled gradients are submitted.
        same = setup.momentum.placement == "update" and sampled is not None and sampled.size == len(workers_H)
        honest = sampled if same else self.study.spread(came_ND[: len(workers_H)])
        self.watch.lap("study")
        step = self._step(len(came_ND), root_D)
        defence = setup.defence.at(step, self.defence_state)
        submissions, attack_FD = self.adversary.answer(came_ND, workers_H, step, defence, honest)
        self.watch.lap("attack")
        if lacking(setup, submissions.n):
            submissions = Matrix(filled(setup, submissions.rows_ND, self.step_number))
            honest = self.study.spread(submissions.rows_ND[: setup.honest])
        step = self._step(submissions.n, root_D)
        aggregate, state = self.contract.aggregate(setup.defence, submissions, step, self.defence_state)
        keep(state, self.defence_state)
        self.watch.lap("aggregate")
        observed = self.study.observe(sampled, honest, attack_FD, aggregate, self.theta_D)
        self.watch.lap("study")
        self.momentum.move(self.theta_D, aggregate.vector_D, step.rate)
        self.step_number += 1
        self.study.moved(aggregate.vector_D, self.theta_D)
        self.watch.lap("aggregate")
        return observed

    def _root_submission(self) -> Tensor | None:
        """That of the server's own worker, (D,), if it has one; computed at every step, as it carries momentum."""
        if self.root is None:
            return None
        row_1D = self.root.submit(self.point(), self.step_number)
        self.momentum.receive(row_1D)
        return row_1D[0]

    def take_warnings(self) -> list[str]:
        """What the user should know of the run, since the last call."""
        notes, self._notes = self._notes, []
        return notes + self.contract.take_warnings()

    def columns(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`take_rows` returns."""
        return self.study.columns()

    def take_rows(self) -> NDArray[np.float64]:
        """The rows of the steps since the last call, (steps, columns)."""
        return self.study.take_rows(self.step_number)

    def evaluate(self, buffers: dict[str, Tensor] | None = None) -> Accuracies:
        """The accuracies on the test set, see :meth:`byzray.evaluation.Evaluation.accuracies`."""
        self.watch.start()
        accuracies = self.evaluation.accuracies(self.theta_D, self.step_number, buffers)
        self.watch.lap("evaluate")
        return accuracies

    def count_replayed(self) -> None:
        """Count a step that was replayed on the device, where nothing here has seen it."""
        self.step_number += 1
        if self.study.past is not None:
            self.study.past.steps += 1

    def state(self) -> State:
        """What the next step depends on, in addition to the setup and the workers' state."""
        state = {"theta": self.theta_D, **self.study.state(), **self.momentum.state()}
        state |= prefixed(self.defence_state, "rule.") | prefixed(self.adversary.state, "attack.")
        return state if self.root is None else state | prefixed(self.root.state(), "root.")

    def restore(self, state: State, step: int) -> None:
        """Restore, at a step, a state that :meth:`state` returned.

        Raises:
            ValueError: it is that of another setup.
        """
        known = self.state()
        expect_like(state, known)
        if self.root is not None:
            self.root.restore(below(state, "root."))
        keep({name: state[name] for name in known if not name.startswith("root.")}, known)
        self.step_number = step
        self.study.resume(step, self.theta_D)
