"""How the actors of a fleet are connected: which share memory, and which a torch.distributed group with which backend.

Ranks: the server is 0, worker actors follow.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from actors.near import Door, Near, PeerLost, PeerSilent

LOOPBACK = "127.0.0.1"


@contextmanager
def exchanging() -> Iterator[None]:
    """Turn what torch.distributed raises into what it means: a peer has closed its connection, or stays silent."""
    try:
        yield
    except RuntimeError as error:  # DistError, if it is not plain
        kind = PeerSilent if "imed out" in str(error) else PeerLost
        raise kind(f"torch.distributed: {error}") from error


class Meeting(NamedTuple):
    """What all actors of a fleet need to know to connect.

    Attributes:
        size: how many they are.
        near: the ranks of the worker actors that are on the server's machine.
        backend: what the torch.distributed group uses; none: nobody needs the group.
        host: where the group meets.
        deadline: after so many seconds an actor that sends nothing counts as lost.
    """

    size: int
    near: frozenset[int]
    backend: str | None
    host: str
    deadline: float


def arrange(places: Sequence[dict[str, Any]], deadline: float) -> Meeting:
    """The connections of actors that are where :meth:`actors.member.Member.whereabouts` says, in the order of ranks."""
    home = places[0]["node"]
    near = frozenset(rank for rank, place in enumerate(places) if rank and place["node"] == home and place["shares"])
    near = near if places[0]["shares"] else frozenset()
    devices = [(place["node"], gpu) for place in places for gpu in place["gpus"]]
    # NCCL refuses two ranks on one GPU.
    if all(place["gpus"] for place in places) and len(set(devices)) == len(devices):
        backend: str | None = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo" if len(near) < len(places) - 1 else None
    alone = all(place["node"] == home for place in places)
    return Meeting(len(places), near, backend, LOOPBACK if alone else places[0]["address"], deadline)


class Group:
    """An actor's connections to the others of its fleet.

    Attributes:
        rank: this actor's.
        joined: whether it is connected.
        nccl: whether GPUs talk to each other directly.
    """

    def __init__(self) -> None:
        self.rank = 0
        self.joined = False
        self.nccl = False
        self._near: dict[int, Near] = {}
        self._door: Door | None = None
        self._store: dist.TCPStore | None = None

    def near(self, device: torch.device) -> dict[int, Near]:
        """The actors, by rank, with which a run on this device shares memory."""
        return {} if self.direct(device) else self._near

    def direct(self, device: torch.device) -> bool:
        """Whether tensors on this device are sent from and received into where they are."""
        return self.nccl and device.type == "cuda"

    def serve(self, meeting: Meeting) -> tuple[int, str]:
        """Open where the others come to; returns the port of the group's store and the path of the door, if needed."""
        self.leave()
        if meeting.near:
            self._door = Door(meeting.deadline)
        if meeting.backend is not None:
            timeout = timedelta(seconds=meeting.deadline)
            self._store = dist.TCPStore(meeting.host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        return self._store.port if self._store else 0, self._door.path if self._door else ""

    def join(self, meeting: Meeting, port: int, path: str, rank: int) -> None:
        """Connect; returns once all have."""
        if rank:
            self.leave()
            if rank in meeting.near:
                self._near[0] = Near.enter(path, rank, meeting.deadline)
        self.rank = rank
        if meeting.backend is not None:
            with exchanging():
                self._join_group(meeting, port)
        if self._door is not None:
            self._near = self._door.admit(len(meeting.near))
            self._close_door()
        self.joined = True

    def _join_group(self, meeting: Meeting, port: int) -> None:
        assert meeting.backend is not None
        timeout = timedelta(seconds=meeting.deadline)
        if self.rank:
            self._store = dist.TCPStore(meeting.host, port, is_master=False, timeout=timeout)
        if meeting.host == LOOPBACK and sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        elif os.environ.get("GLOO_SOCKET_IFNAME") == "lo":  # of a group before a node was lost
            del os.environ["GLOO_SOCKET_IFNAME"]
        dist.init_process_group(
            meeting.backend, store=self._store, rank=self.rank, world_size=meeting.size, timeout=timeout
        )
        self.nccl = "nccl" in meeting.backend

    def leave(self) -> None:
        """Close all connections, which the others notice at once."""
        self.joined = False
        for near in self._near.values():
            near.close()
        self._near = {}
        self._close_door()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None
        self.nccl = False

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
