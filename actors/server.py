"""The actor that holds the server."""

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.channel import ServerChannel
from actors.member import Member, resolve
from actors.near import PeerLost
from actors.publishing import Beacon
from byzray.datasets import Data
from byzray.devices import pick_device
from byzray.divergence import Divergence
from byzray.server import Server
from byzray.state import State


class Stretch(NamedTuple):
    """Steps that were taken.

    Attributes:
        rows: of metrics, one a step.
        step: how many steps have been taken in all.
        diverged: where and why the parameters became non-finite, if they did.
        spent: the seconds of each phase since the last time this was asked for.
        warnings: of the rule or the attack.
        slowest: the seconds of the slowest step among them.
    """

    rows: NDArray[np.float64]
    step: int
    diverged: Divergence | None
    spent: dict[str, float]
    warnings: list[str]
    slowest: float


class Rescued(NamedTuple):
    """All that is needed to go on after a worker was lost.

    Attributes:
        stretch: the steps that were taken since the last call of :meth:`ServerActor.run`.
        state: of the server, and of all workers before the step under way.
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
        parameters: Tensor | None,
        tags: dict[str, str],
    ) -> tuple[str, ...]:
        """Get ready for a run from its first step; returns the names of the metrics' columns."""
        with self.leaving_on_failure():
            self.check_joined()
            self.prepared = None  # so that nothing of another run is rescued
            setup = resolve(description, import_paths)
            self.device = pick_device(setup.device)
            server = Server(setup, data, self.device, parameters)
            self.channel = ServerChannel(self.group, server, cohorts)
            self._rows, self._slowest = server.take_rows(), 0.0
            self._warnings: list[str] = []
            self.light(Beacon(tags, "server"))
            self.prepared = server
            return server.columns()

    def run(self, stop: int, patience: float) -> Stretch:
        """Take the steps up to `stop`, exclusive, together with the workers, who may be silent for so many seconds."""
        with self.leaving_on_failure():
            server = self.server
            channel = self.channel
            channel.patience = patience
            self._rows, self._warnings = server.take_rows(), []  # no rows
            self._slowest, began = 0.0, time.monotonic()
            if server.step_number < stop:
                self._send()
            while server.step_number < stop and not server.study.halted:
                self.at_step(server.step_number)
                server.watch.start()
                channel.receive()
                server.watch.lap("wait")
                contributions = channel.contributions()
                observed = server.update()
                try:
                    if server.step_number < stop:
                        channel.end() if server.study.halted else self._send()
                finally:
                    # While the workers are at the next step.
                    server.record(observed, contributions)
                self._slowest, began = max(self._slowest, time.monotonic() - began), time.monotonic()
            if server.study.halted or server.step_number == server.setup.steps:
                self.light(None)
            return self._stretch()

    def _send(self) -> None:
        self.server.watch.start()
        self.channel.send()
        self.server.watch.lap("transfer")

    def _stretch(self) -> Stretch:
        """The steps since :meth:`run` was called, however often it is asked for."""
        self._rows = np.concatenate([self._rows, self.server.take_rows()])
        server = self.server
        self._warnings += server.take_warnings()
        return Stretch(
            self._rows, server.step_number, server.study.diverged, server.watch.take(), self._warnings, self._slowest
        )

    def rescue(self) -> Rescued | None:
        """What the run can go on from after a worker was lost; none if this actor itself was, and is back."""
        if self.prepared is None:
            return None
        return Rescued(self._stretch(), self.state() | self.channel.kept())

    def evaluate(self, buffers: dict[str, Tensor]) -> float:
        """The accuracy, with the given statistics for BatchNorm if there are any."""
        return self.server.evaluate({name: buffer.to(self.device) for name, buffer in buffers.items()})

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,)."""
        return self.server.theta_D.cpu().numpy()

    def state(self) -> State:
        """The server's state."""
        return {name: tensor.cpu() for name, tensor in self.server.state().items()}

    def restore(self, state: State, of_workers: State, step: int) -> None:
        """Take up a state, and keep that of the workers for them."""
        self.server.restore(state, step)
        self.channel.keep(of_workers)

    def environment(self) -> dict[str, Any]:
        """Where the server computes."""
        from byzray.environment import environment

        return environment(self.device)
