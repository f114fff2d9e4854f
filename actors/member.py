"""What the actors of a fleet have in common."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from pydantic import ValidationError

from actors.group import Group, Meeting
from actors.near import AVAILABLE, PeerLost
from actors.publishing import Beacon
from byzray.devices import keep_freed_memory
from byzray.mistakes import SetupError, lines
from byzray.process_state import own_settings
from byzray.setups import Setup


class Member:
    """An actor of a fleet: it can connect to the others, and leaves them when something goes wrong."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.group = Group()
        self._beacon: Beacon | None = None

    def light(self, beacon: Beacon | None) -> None:
        """Tell from now on which step this actor is at, in the metrics of a run; none: no more."""
        if self._beacon is not None:
            self._beacon.end()
        self._beacon = beacon
        if beacon is not None:
            beacon.begin()

    def at_step(self, step: int) -> None:
        """Called at each step."""
        if self._beacon is not None:
            self._beacon.step = step

    def serve(self, meeting: Meeting) -> tuple[int, str]:
        """Open where the others come to, see :meth:`actors.group.Group.serve`."""
        return self.group.serve(meeting)

    def join(self, meeting: Meeting, port: int, path: str, rank: int) -> None:
        """Connect to the others."""
        self.group.join(meeting, port, path, rank)

    def whereabouts(self) -> dict[str, Any]:
        """The node's address and id, whether actors on it can share memory, this process's id, the GPUs from Ray."""
        context = ray.get_runtime_context()
        return {
            "address": ray.util.get_node_ip_address(),
            "node": context.get_node_id(),
            "shares": AVAILABLE,
            "pid": os.getpid(),
            "gpus": context.get_accelerator_ids().get("GPU", []),
        }

    def check_joined(self) -> None:
        """Check that this actor is still the one that was connected.

        Raises:
            PeerLost: it was started anew.
        """
        if not self.group.joined:
            raise PeerLost("this actor was started anew")

    @contextmanager
    def leaving_on_failure(self) -> Iterator[None]:
        """Leave the group if the block fails, so that the others do not wait for this actor in vain.

        PyTorch's settings are byzray's own meanwhile.
        """
        try:
            with own_settings():
                yield
        except BaseException:
            self.group.leave()
            raise


def resolve(description: dict[str, Any], import_paths: list[str]) -> Setup:
    """The setup from its description; `import_paths` are where the user's own classes are imported from.

    Raises:
        SetupError: it is not valid here, because a class of the user's own cannot be imported, say.
    """
    sys.path.extend(path for path in import_paths if path not in sys.path)
    try:
        with own_settings():  # what the user's modules set when they are imported does not outlast it
            return Setup.model_validate(description)
    except ValidationError as error:
        raise SetupError("in an actor", lines(error)) from None
