"""What the loop around a run needs of it, wherever it computes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from byzray.divergence import Divergence
from byzray.environment import Environment
from byzray.phases import Timings
from byzray.setups import Setup
from byzray.state import State


class Simulation(Protocol):
    """A run that can be advanced: in this process, or on a fleet of actors."""

    setup: Setup

    @property
    def step_number(self) -> int:
        """How many steps have been taken."""

    def advance(self, stop: int) -> NDArray[np.float64]:
        """Take the steps up to `stop`, exclusive; returns their rows of metrics."""

    def evaluate(self) -> float:
        """The accuracy at this step."""

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,) at this step."""

    def columns(self) -> Sequence[str]:
        """The names of the columns of the rows."""

    def state(self) -> State:
        """All that the next step depends on."""

    def restore(self, state: State, step: int) -> None:
        """Take up a state.

        Raises:
            ValueError, LookupError: it is that of another setup.
        """

    def begin_anew(self) -> None:
        """Go back to the initial state."""

    @property
    def diverged(self) -> Divergence | None:
        """Where and why the parameters became non-finite since the start or the last restored state, if they did."""

    def take_events(self) -> list[str]:
        """What happened to the run since the last call that its user should know."""

    def take_timings(self) -> Timings:
        """Where the time went since the last call."""

    def take_replaced(self) -> list[str]:
        """The actors that were lost and replaced since the last call."""

    def environment(self) -> Environment:
        """Where it runs."""


class StateLost(Exception):
    """The state of a simulation was lost; it can go on from one that is restored."""
