"""Which actors of a fleet share memory, and which form a torch.distributed group with which backend.

Ranks: the server is 0, worker actors follow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

LOOPBACK = "127.0.0.1"


class Rendezvous(NamedTuple):
    """What all actors of a fleet need to know to connect.

    Attributes:
        size: the number of actors.
        local: the ranks of the worker actors that share memory with the server.
        backend: of the torch.distributed group; None if no actor needs the group.
        host: the address of the group's store.
        timeout: an actor that sends nothing for this many seconds counts as lost.
    """

    size: int
    local: frozenset[int]
    backend: str | None
    host: str
    timeout: float


def plan(locations: Sequence[dict[str, Any]], timeout: float) -> Rendezvous:
    """How actors at these locations connect.

    Args:
        locations: what :meth:`actors.member.Member.location` returns, in the order of ranks.
        timeout: an actor that sends nothing for this many seconds counts as lost.
    """
    server = locations[0]
    local = frozenset(
        rank
        for rank, place in enumerate(locations)
        if rank and place["node"] == server["node"] and place["shares"] and server["shares"]
    )
    devices = [(place["node"], gpu) for place in locations for gpu in place["gpus"]]
    # NCCL refuses two ranks on one GPU.
    if all(place["gpus"] for place in locations) and len(set(devices)) == len(devices):
        backend: str | None = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo" if len(local) < len(locations) - 1 else None
    one_machine = all(place["node"] == server["node"] for place in locations)
    return Rendezvous(len(locations), local, backend, LOOPBACK if one_machine else server["address"], timeout)
