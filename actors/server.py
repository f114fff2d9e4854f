"""The actor that holds the server."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.channel import Layout, ServerChannel
from actors.member import Member, resolve
from byzray.datasets import Data
from byzray.devices import pick_device
from byzray.server import Server


class ServerActor(Member):
    """The parameters, the adversary and the aggregation rule, on this actor's share of a device."""

    def prepare(
        self,
        description: dict[str, Any],
        import_paths: list[str],
        cohorts: list[range],
        data: Data,
        parameters: Tensor | None,
    ) -> tuple[str, ...]:
        """Get ready for a run from its first step; returns the names of the metrics' columns."""
        with self.leaving_on_failure():
            setup = resolve(description, import_paths)
            self.device = pick_device(setup.device)
            self.server = Server(setup, data, self.device, parameters)
            dimension = self.server.network.dimension
            layout = Layout(setup.workers, dimension, tuple(cohorts), setup.workers_report_moments)
            self.channel = ServerChannel(self.group, self.server, layout)
            return self.server.columns()

    def run(self, stop: int) -> NDArray[np.float64]:
        """Take the steps up to `stop`, exclusive, together with the workers; returns their rows of metrics."""
        with self.leaving_on_failure():
            channel, server = self.channel, self.server
            if server.step_number < stop:
                channel.send()
            while server.step_number < stop:
                channel.receive()
                outcome = server.update()
                contributions = channel.contributions()
                if server.step_number < stop:
                    channel.send()
                # While the workers are at the next step.
                server.study(outcome, contributions)
            return server.take_rows()

    def evaluate(self, buffers: dict[str, Tensor]) -> float:
        """The accuracy, with the given statistics for BatchNorm if there are any."""
        return self.server.evaluate({name: buffer.to(self.device) for name, buffer in buffers.items()})

    def parameters(self) -> NDArray[np.float32]:
        """The parameters (D,)."""
        return self.server.theta_D.cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """The server's state."""
        return {name: tensor.cpu() for name, tensor in self.server.state().items()}

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take up a state."""
        self.server.restore(state, step)

    def environment(self) -> dict[str, Any]:
        """Where the server computes."""
        from byzray.environment import environment

        return environment(self.device)
