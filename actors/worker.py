"""The actor that holds workers."""

import os
import signal
import time
from typing import Any

from actors.channel import Layout, WorkerChannel
from actors.member import Member, resolve
from actors.near import PeerLost
from actors.publishing import Beacon
from byzray.cohort import Cohort
from byzray.datasets import Data
from byzray.devices import pick_device
from byzray.state import State


class WorkerActor(Member):
    """A cohort of workers, each with its own momentum buffer, on this actor's share of a device."""

    prepared: Cohort | None = None

    @property
    def cohort(self) -> Cohort:
        """The workers.

        Raises:
            PeerLost: this actor was started anew since it was made ready.
        """
        if self.prepared is None:
            raise PeerLost("this actor was started anew")
        return self.prepared

    def prepare(
        self,
        description: dict[str, Any],
        import_paths: list[str],
        cohorts: list[range],
        data: Data,
        healthy: int,
        tags: dict[str, str],
        role: str,
    ) -> None:
        """Get ready for a run from its first step.

        Args:
            description, import_paths: of the setup.
            cohorts: which workers the actors of ranks 1, 2, ... hold.
            data: the data set.
            healthy: before this step, crashes and hangs that the setup declares do not happen (any more).
            tags, role: what this actor's metrics are tagged with.
        """
        with self.leaving_on_failure():
            self.check_joined()
            self.setup = resolve(description, import_paths)
            device = pick_device(self.setup.device)
            self.healthy = healthy
            cohort = Cohort(self.setup, cohorts[self.group.rank - 1], data, device)
            layout = Layout.of(self.setup, cohort.gradients.network, cohorts)
            self.channel = WorkerChannel(self.group, cohort, layout, device)
            self.light(Beacon(tags, role))
            self.prepared = cohort

    def run(self, start: int, stop: int, patience: float) -> dict[str, float]:
        """Take the steps from `start` to `stop`, exclusive, together with the rest of the fleet.

        Args:
            start, stop: the steps.
            patience: for how many seconds the server may be silent.

        Returns:
            the seconds of each phase.
        """
        with self.leaving_on_failure():
            cohort = self.cohort
            self.channel.patience = patience
            for step in range(start, stop):
                point = self.channel.receive()
                if point is None:
                    self.light(None)
                    break
                self.at_step(step)
                self._fail_as_declared(step)
                contribution = cohort.step(point, step, self.channel.submissions(step))
                self.channel.send(contribution, step)
                # While the server aggregates.
                cohort.draw(step + 1)
            if stop == self.setup.steps:
                self.light(None)
            return cohort.watch.take()

    def _fail_as_declared(self, step: int) -> None:
        """Crash or hang, once, if the setup says that a worker of this cohort does so at this step."""
        if self.setup.faults is None or step < self.healthy:
            return
        declared = self.setup.faults.at(step)
        kinds = {declared.get(worker) for worker in self.cohort.workers}
        if "crash" in kinds:
            os.kill(os.getpid(), signal.SIGKILL)
        while "hang" in kinds:
            time.sleep(1)

    def state(self) -> State:
        """The cohort's state."""
        return {name: tensor.cpu() for name, tensor in self.cohort.state().items()}

    def restore(self, state: State) -> None:
        """Take up a state."""
        self.cohort.restore(state)
