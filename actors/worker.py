"""The actor that holds workers."""

import os
import signal
import time
from typing import Any

from actors.buffers import Layout
from actors.channel import WorkerChannel
from actors.local_peers import PeerLost
from actors.member import Member, resolve
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
            PeerLost: this actor was restarted since :meth:`prepare`.
        """
        if self.prepared is None:
            raise PeerLost("this actor was restarted")
        return self.prepared

    def prepare(
        self,
        description: dict[str, Any],
        import_paths: list[str],
        cohorts: list[range],
        data: Data,
        faults_from: int,
        tags: dict[str, str],
        role: str,
    ) -> None:
        """Prepare a run from its first step.

        Args:
            description, import_paths: of the setup.
            cohorts: the workers of the actors of ranks 1, 2, ...
            data: the data set.
            faults_from: from this step on, crashes and hangs that the setup declares happen.
            tags, role: of this actor's metrics.
        """
        with self.disconnecting_on_failure():
            self.check_connected()
            self.setup = resolve(description, import_paths)
            device = pick_device(self.setup.device)
            self.faults_from = faults_from
            cohort = Cohort(self.setup, cohorts[self.connections.rank - 1], data, device)
            layout = Layout.of(self.setup, cohort.gradients.network, cohorts)
            self.channel = WorkerChannel(self.connections, layout, device, self.setup.divergence == "stop")
            self.publish(tags, role)
            self.prepared = cohort

    def run(self, start: int, stop: int, timeout: float) -> dict[str, float]:
        """Take the steps from `start` to `stop`, exclusive, together with the other actors.

        Args:
            start, stop: the steps.
            timeout: the server counts as lost if it sends nothing for this many seconds.

        Returns:
            the seconds of each phase.
        """
        with self.disconnecting_on_failure():
            cohort, channel = self.cohort, self.channel
            channel.timeout = timeout
            for step in range(start, stop):
                point = channel.receive()
                if point is None:
                    self.stop_publishing()
                    break
                self.at_step(step)
                self._fail_as_declared(step)
                contribution = cohort.step(point, step, channel.submissions(step))
                channel.send(contribution, cohort.state(), step)
                # While the server aggregates.
                cohort.draw(step + 1)
            if stop == self.setup.steps:
                self.stop_publishing()
            return cohort.watch.take()

    def _fail_as_declared(self, step: int) -> None:
        """Crash or hang, once, if the setup declares it for a worker of this cohort at this step."""
        if self.setup.faults is None or step < self.faults_from:
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
        """Restore a state."""
        self.cohort.restore(state)
