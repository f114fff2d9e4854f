"""The actor that holds the server."""

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.buffers import Layout
from actors.channel import ServerChannel
from actors.local_peers import PeerLost
from actors.member import Member, resolve
from byzray.datasets import Data
from byzray.devices import pick_device
from byzray.divergence import Divergence
from byzray.evaluation import Accuracies
from byzray.server import Server
from byzray.state import State


class Stretch(NamedTuple):
    """Steps taken in one call.

    Attributes:
        rows: of metrics, one a step.
        step: how many steps the run has taken in all.
        diverged: where and why the parameters became non-finite, if they did.
        spent: the seconds of each phase since this was last returned.
        warnings: of the rule or the attack.
        slowest: the seconds of the slowest of these steps.
    """

    rows: NDArray[np.float64]
    step: int
    diverged: Divergence | None
    spent: dict[str, float]
    warnings: list[str]
    slowest: float


class Snapshot(NamedTuple):
    """What a run needs to continue after a worker was lost.

    Attributes:
        stretch: the steps taken since the last call of :meth:`ServerActor.run`.
        state: of the server, and of all workers before the current step.
    """

    stretch: Stretch
    state: State


class ServerActor(Member):
    """The parameters, the adversary and the aggregation rule, on this actor's share of a device."""

    prepared: Server | None = None

    @property
    def server(self) -> Server:
        """The server of the run.

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
        parameters: Tensor | None,
        tags: dict[str, str],
    ) -> tuple[str, ...]:
        """Prepare a run from its first step; returns the names of the metrics' columns."""
        with self.disconnecting_on_failure():
            self.check_connected()
            self.prepared = None  # so that a snapshot is never of another run
            setup = resolve(description, import_paths)
            self.device = pick_device(setup.device)
            server = Server(setup, data, self.device, parameters)
            layout = Layout.of(setup, server.network, cohorts)
            statistics = server.network.buffers() if setup.model.training else {}
            self.channel = ServerChannel(self.connections, layout, self.device, statistics)
            self._rows, self._slowest = server.take_rows(), 0.0
            self._warnings: list[str] = []
            self.publish(tags, "server")
            self.prepared = server
            return server.columns()

    def run(self, stop: int, timeout: float) -> Stretch:
        """Take the steps up to `stop`, exclusive, together with the workers.

        Args:
            stop: the step.
            timeout: the workers count as lost if they send nothing for this many seconds in a step.
        """
        with self.disconnecting_on_failure():
            server = self.server
            channel = self.channel
            channel.timeout = timeout
            self._rows, self._warnings = server.take_rows(), []  # no rows
            self._slowest, began = 0.0, time.monotonic()
            if server.step_number < stop:
                self._send()
            while server.step_number < stop and not server.study.halted:
                step = server.step_number
                self.at_step(step)
                server.watch.start()
                present = [server.setup.present(workers, step) for workers in channel.layout.cohorts]
                contributions = channel.receive(step, present)
                server.watch.lap("wait")
                observed = server.update()
                try:
                    if server.step_number < stop:
                        channel.end() if server.study.halted else self._send()
                finally:
                    # While the workers compute the next step.
                    server.record(observed, contributions)
                self._slowest, began = max(self._slowest, time.monotonic() - began), time.monotonic()
            if server.study.halted or server.step_number == server.setup.steps:
                self.stop_publishing()
            return self._stretch()

    def _send(self) -> None:
        server, step = self.server, self.server.step_number
        server.watch.start()
        server.keep_submissions_in(self.channel.submissions(step))
        self.channel.send(server.point(), step)
        server.watch.lap("transfer")

    def _stretch(self) -> Stretch:
        """The steps since :meth:`run` was called; may be called again."""
        self._rows = np.concatenate([self._rows, self.server.take_rows()])
        server = self.server
        self._warnings += server.take_warnings()
        return Stretch(
            self._rows, server.step_number, server.study.diverged, server.watch.take(), self._warnings, self._slowest
        )

    def snapshot(self) -> Snapshot | None:
        """What the run can continue from after a worker was lost; None if this actor was lost itself and restarted."""
        if self.prepared is None:
            return None
        return Snapshot(self._stretch(), self.state() | self.channel.worker_state(self.server.step_number))

    def evaluate(self, buffers: dict[str, Tensor]) -> Accuracies:
        """The accuracies, with these statistics for BatchNorm if there are any."""
        return self.server.evaluate({name: buffer.to(self.device) for name, buffer in buffers.items()})

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,)."""
        return self.server.theta_D.cpu().numpy()

    def state(self) -> State:
        """The server's state."""
        return {name: tensor.cpu() for name, tensor in self.server.state().items()}

    def restore(self, state: State, of_workers: State, step: int) -> None:
        """Restore the server's state, and keep that of the workers."""
        self.server.restore(state, step)
        self.channel.set_worker_state(of_workers, step)

    def environment(self) -> dict[str, Any]:
        """Where the server computes."""
        from byzray.environment import environment

        return environment(self.device)
