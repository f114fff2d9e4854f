"""The actor that holds workers."""

from typing import Any

from torch import Tensor

from actors.channel import Layout, WorkerChannel
from actors.member import Member, resolve
from byzray.cohort import Cohort
from byzray.datasets import Data
from byzray.devices import pick_device


class WorkerActor(Member):
    """A cohort of workers, each with its own momentum buffer, on this actor's share of a device."""

    def prepare(self, description: dict[str, Any], import_paths: list[str], cohorts: list[range], data: Data) -> None:
        """Get ready for a run from its first step."""
        with self.leaving_on_failure():
            setup = resolve(description, import_paths)
            device = pick_device(setup.device)
            self.cohort = Cohort(setup, cohorts[self.group.rank - 1], data, device)
            layout = Layout(setup.workers, self.cohort.dimension, tuple(cohorts), setup.workers_report_moments)
            self.channel = WorkerChannel(self.group, layout, device)

    def run(self, start: int, stop: int) -> None:
        """Take the steps from `start` to `stop`, exclusive, together with the rest of the fleet."""
        with self.leaving_on_failure():
            for step in range(start, stop):
                contribution = self.cohort.step(self.channel.receive(), step, self.channel.submissions_KD)
                self.channel.send(contribution, step)
                # While the server aggregates.
                self.cohort.draw(step + 1)

    def state(self) -> dict[str, Tensor]:
        """The cohort's state."""
        return {name: tensor.cpu() for name, tensor in self.cohort.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""
        self.cohort.restore(state)
