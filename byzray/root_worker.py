"""A worker at the server, for defences that compare submissions with one from data that the server trusts."""

import torch
from torch import Tensor

from byzray.cohort import Cohort
from byzray.datasets import Data
from byzray.division import root_stream
from byzray.setups import Setup
from byzray.state import State


class RootWorker:
    """One more worker, which runs the honest code on the server's own part of the data and is seen by nobody else.

    Args:
        setup: the setup of the run.
        data: the data set.
        device: where it computes.
    """

    def __init__(self, setup: Setup, data: Data, device: torch.device) -> None:
        number = setup.workers  # after all others: its random draws are its own
        self.cohort = Cohort(setup, range(number, number + 1), data, device, root_stream(data, setup, device))
        self._row_1D = torch.zeros(1, self.cohort.gradients.network.dimension, device=device)

    def submit(self, point: Tensor, step: int) -> Tensor:
        """Its submission (1, D) of a step, valid until the next.

        Args:
            point: what the server sends to all workers.
            step: the number of the step.
        """
        self.cohort.step(point, step, self._row_1D)
        return self._row_1D

    def state(self) -> State:
        """What its next step depends on."""
        return self.cohort.state()

    def restore(self, state: State) -> None:
        """Restore a state that :meth:`state` returned."""
        self.cohort.restore(state)
