"""Simulation: the interface between the loop around a run and the run itself."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from byzray.divergence import Divergence
from byzray.environment import Environment
from byzray.evaluation import Accuracies
from byzray.setups import Setup
from byzray.state import State
from byzray.timings import Timings


class Simulation(Protocol):
    """A run that can be advanced: in this process, or on a fleet of actors."""

    setup: Setup

    @property
    def step_number(self) -> int:
        """The number of steps taken."""

    def advance(self, stop: int) -> NDArray[np.float64]:
        """Take the steps before `stop`; returns their rows of metrics."""

    def evaluate(self) -> Accuracies:
        """The accuracies at this step, one for each of :func:`byzray.evaluation.accuracy_columns`."""

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,) at this step."""

    def columns(self) -> Sequence[str]:
        """The names of the columns of the rows."""

    def state(self) -> State:
        """The state that the next step depends on."""

    def restore(self, state: State, step: int) -> None:
        """Restore a state of an earlier step.

        Raises:
            ValueError, LookupError: it belongs to another setup.
        """

    def begin_anew(self) -> None:
        """Go back to the initial state."""

    @property
    def diverged(self) -> Divergence | None:
        """Where and why the parameters became non-finite since the start or the last restored state, if they did."""

    def take_events(self) -> list[str]:
        """Events since the last call that the user should know."""

    def take_timings(self) -> Timings:
        """How the time was spent since the last call."""

    def take_replaced(self) -> list[str]:
        """The actors that were lost and replaced since the last call."""

    def environment(self) -> Environment:
        """Versions and devices of where it runs."""


class StateLost(Exception):
    """The state of a simulation was lost; it can continue from a restored one."""
