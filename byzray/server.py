"""The server: it receives submissions, lets the adversary answer, aggregates, and moves the parameters.

Shapes in names: N submissions, of which H honest and F Byzantine, T trained workers, D parameters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.attacks import View
from byzray.cohort import Contribution
from byzray.contract import Contract
from byzray.datasets import Data
from byzray.evaluation import Evaluation
from byzray.gradients import Network
from byzray.momentum import ServerMomentum
from byzray.phases import Stopwatch
from byzray.setups import Setup
from byzray.state import State, expect_like, prefixed
from byzray.step import Step
from byzray.study import Observed, Study
from byzray.submissions import Matrix


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
        self.momentum = ServerMomentum(setup.momentum, self.network.dimension, device)
        self.keep_submissions_in(torch.zeros(setup.workers, self.network.dimension, device=device))
        self.step_number = 0
        self.study = Study(setup, self.theta_D)
        self.evaluation = Evaluation(setup, data, self.network)
        self.contract = Contract(device)
        self.defence_state = self.contract.start_defence(setup.defence, self._step(setup.workers), self.theta_D)
        self.attack_state: State = {}
        if setup.attack is not None:
            self.attack_state = self.contract.start_attack(setup.attack, self._step(setup.workers), self.theta_D)

    def keep_submissions_in(self, submissions_ND: Tensor) -> None:
        """Take this matrix from now on, into which others can write."""
        self.submissions_ND = submissions_ND
        self.trained_TD = submissions_ND[: len(self.setup.trained)]

    def point(self) -> Tensor:
        """The point (D,) to send to the workers at this step."""
        return self.momentum.point(self.theta_D, self.setup.learning_rate.at(self.step_number))

    def _step(self, n: int) -> Step:
        """This step, at which n submissions come."""
        setup, number = self.setup, self.step_number
        return Step(setup.seed, number, n, setup.tolerated, setup.learning_rate.at(number), self.theta_D)

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
        self.study.look()
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
        setup, byzantine = self.setup, self.setup.byzantine
        self.watch.start()
        came_ND, workers_H = self._received()
        honest = len(workers_H)
        sampled = self.study.sampled(came_ND[:honest])
        self.watch.lap("study")
        self.momentum.receive(came_ND[: honest + len(setup.trained) - setup.honest])
        # Pre-aggregators mix such zeros in, and an adversary who asks the defence has to see them.
        if setup.pre and len(filled_ND := self._filled(came_ND)) > len(came_ND):
            came_ND, workers_H = filled_ND, tuple(range(setup.honest))
        came_ND, attack_FD = self._attacked(came_ND, workers_H)
        self.watch.lap("attack")
        submissions_ND = self._filled(came_ND)
        step = self._step(len(submissions_ND))
        aggregate, state = self.contract.aggregate(setup.defence, Matrix(submissions_ND), step, self.defence_state)
        _keep(state, self.defence_state)
        self.watch.lap("aggregate")
        honest_HD = submissions_ND[: len(submissions_ND) - byzantine]
        observed = self.study.observe(sampled, honest_HD, attack_FD, aggregate, self.theta_D)
        self.watch.lap("study")
        self.theta_D.sub_(self.momentum.direction(aggregate.vector_D), alpha=step.rate)
        self.step_number += 1
        self.study.moved(aggregate.vector_D, self.theta_D)
        self.watch.lap("aggregate")
        return observed

    def _received(self) -> tuple[Tensor, tuple[int, ...]]:
        """The rows that come, honest and Byzantine: all, or a copy without those that are missing; and the numbers of
        the honest workers among them. Those of Byzantine ones, the last, do come."""
        missing = self.setup.missing_at(self.step_number)
        if not missing:
            return self.submissions_ND, tuple(range(self.setup.honest))
        coming = [worker for worker in range(self.setup.workers) if worker not in missing]
        return self.submissions_ND[coming], tuple(coming[: len(coming) - self.setup.byzantine])

    def _filled(self, came_ND: Tensor) -> Tensor:
        """What the defence sees: the submissions that came, with zeros for the others if the setup says so."""
        faults = self.setup.faults
        if faults is None or faults.missing != "zero" or len(came_ND) == self.setup.workers:
            return came_ND
        missing = self.setup.missing_at(self.step_number)
        submissions_ND = torch.zeros_like(self.submissions_ND)
        submissions_ND[[worker for worker in range(self.setup.workers) if worker not in missing]] = came_ND
        return submissions_ND

    def _attacked(self, came_ND: Tensor, workers_H: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """The rows with the Byzantine submissions after the honest ones, and those by themselves if there are any."""
        attack = self.setup.attack
        if attack is None:
            return came_ND, None
        honest_HD, own_FD = came_ND[: len(workers_H)], came_ND[len(workers_H) :]
        step = self._step(len(came_ND))
        view = View(
            step=step.of(attack),
            byzantine=self.setup.byzantine,
            defence=self.setup.defence.at(step, self.defence_state),
            workers_H=workers_H,
            own_FD=own_FD if attack.trains else None,
        )
        attack_FD, state = self.contract.attack(attack, honest_HD, view, self.attack_state)
        _keep(state, self.attack_state)
        if not attack.trains:
            own_FD.copy_(attack_FD)
        elif attack_FD is not own_FD:
            # Not over what the workers submitted, which is their momentum.
            came_ND = torch.cat((honest_HD, attack_FD))
        return came_ND, attack_FD

    def columns(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`take_rows` returns."""
        return self.study.columns()

    def take_rows(self) -> NDArray[np.float64]:
        """The rows of the steps since the last call, (steps, columns)."""
        return self.study.take_rows(self.step_number)

    def evaluate(self, buffers: dict[str, Tensor] | None = None) -> float:
        """The accuracy on the test set, see :meth:`byzray.evaluation.Evaluation.accuracy`."""
        self.watch.start()
        accuracy = self.evaluation.accuracy(self.theta_D, self.step_number, buffers)
        self.watch.lap("evaluate")
        return accuracy

    def count_replayed(self) -> None:
        """Count a step that was replayed on the device, where nothing here has seen it."""
        self.step_number += 1
        if self.study.past is not None:
            self.study.past.steps += 1

    def state(self) -> State:
        """What the next step depends on, beside the setup and the workers' state."""
        state = {"theta": self.theta_D, **self.study.state()}
        if self.momentum.buffer_D is not None:
            state["server momentum"] = self.momentum.buffer_D
        return state | prefixed(self.defence_state, "rule.") | prefixed(self.attack_state, "attack.")

    def restore(self, state: State, step: int) -> None:
        """Take up, at a step, a state that :meth:`state` returned.

        Raises:
            ValueError: it is that of another setup.
        """
        known = self.state()
        expect_like(state, known)
        _keep({name: state[name] for name in known}, known)
        self.step_number = step
        self.study.resume(step, self.theta_D)


def _keep(new: State, state: State) -> None:
    """Put a new state where the old one is, and where a captured step finds it."""
    for name, tensor in new.items():
        if tensor is not state[name]:
            state[name].copy_(tensor)
