"""What the actors of a fleet have in common."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from pydantic import ValidationError

from actors.connections import Connections
from actors.local_peers import AVAILABLE, PeerLost
from actors.publishing import MetricsPublisher
from actors.rendezvous import Rendezvous
from byzray.devices import keep_freed_memory
from byzray.mistakes import SetupError, lines
from byzray.process_state import own_settings
from byzray.setups import Setup


class Member:
    """An actor of a fleet: connects to the others, and disconnects when it fails."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.connections = Connections()
        self._publisher: MetricsPublisher | None = None

    def publish(self, tags: dict[str, str], role: str) -> None:
        """Publish from now on which step this actor is at, in the metrics of a run."""
        self.stop_publishing()
        self._publisher = MetricsPublisher(tags, role)
        self._publisher.begin()

    def at_step(self, step: int) -> None:
        """Set the step that is published."""
        if self._publisher is not None:
            self._publisher.step = step

    def stop_publishing(self) -> None:
        """Publish once more, then stop."""
        if self._publisher is not None:
            self._publisher.end()
        self._publisher = None

    def listen(self, rendezvous: Rendezvous) -> tuple[int, str]:
        """Start listening, see :meth:`actors.connections.Connections.listen`."""
        return self.connections.listen(rendezvous)

    def connect(self, rendezvous: Rendezvous, port: int, path: str, rank: int) -> None:
        """Connect to the others, see :meth:`actors.connections.Connections.connect`."""
        self.connections.connect(rendezvous, port, path, rank)

    def location(self) -> dict[str, Any]:
        """The node's address and id, whether actors on it can share memory, this process's id, the GPUs from Ray."""
        context = ray.get_runtime_context()
        return {
            "address": ray.util.get_node_ip_address(),
            "node": context.get_node_id(),
            "shares": AVAILABLE,
            "pid": os.getpid(),
            "gpus": context.get_accelerator_ids().get("GPU", []),
        }

    def check_connected(self) -> None:
        """Check that this actor has not been restarted since it was connected.

        Raises:
            PeerLost: it has.
        """
        if not self.connections.connected:
            raise PeerLost("this actor was restarted")

    @contextmanager
    def disconnecting_on_failure(self) -> Iterator[None]:
        """Disconnect if the block fails, so that the others do not wait for this actor; byzray's PyTorch settings
        apply inside."""
        try:
            with own_settings():
                yield
        except BaseException:
            self.connections.disconnect()
            raise


def resolve(description: dict[str, Any], import_paths: list[str]) -> Setup:
    """The setup from its description.

    Args:
        description: see :meth:`byzray.Setup.describe`.
        import_paths: added to `sys.path`, for the user's own classes.

    Raises:
        SetupError: it is not valid on this node, because a class of the user's cannot be imported, for example.
    """
    sys.path.extend(path for path in import_paths if path not in sys.path)
    try:
        with own_settings():  # undoes what the user's modules set when they are imported
            return Setup.model_validate(description)
    except ValidationError as error:
        raise SetupError("in an actor", lines(error)) from None
