"""The actor that holds workers."""

from typing import Any

import torch
from torch import Tensor

from actors.channel import WorkerChannel
from actors.member import Member, resolve
from byzray.cohort import Cohort
from byzray.datasets import Data
from byzray.devices import pick_device


class WorkerActor(Member):
    """A cohort of workers, each with its own momentum buffer, on this actor's share of a device."""

    def prepare(self, description: dict[str, Any], import_paths: list[str], workers: range, data: Data) -> None:
        """Get ready for a run from its first step."""
        setup = resolve(description, import_paths)
        device = pick_device(setup.device)
        self.cohort = Cohort(setup, workers, data, device)
        dimension = self.cohort.dimension
        self.channel = WorkerChannel(dimension, device)
        self.submissions_KD = torch.empty(len(workers), dimension, device=device)

    def run(self, start: int, stop: int) -> None:
        """Take the steps from `start` to `stop`, exclusive, together with the rest of the fleet."""
        with self.leaving_on_failure():
            for step in range(start, stop):
                contribution = self.cohort.step(self.channel.receive(), step, self.submissions_KD)
                self.channel.send(self.submissions_KD, contribution)

    def state(self) -> dict[str, Tensor]:
        """The cohort's state."""
        return {name: tensor.cpu() for name, tensor in self.cohort.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""
        self.cohort.restore(state)
