"""An actor's connections to the others: setting them up, and exchanging tensors.

With an actor on the same machine tensors are in shared memory, and only a signal is sent; with others torch.distributed
sends the tensors.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from actors.local_peers import Listener, LocalPeer, PeerLost, PeerTimeout, share_memory
from actors.rendezvous import LOOPBACK, Rendezvous


@contextmanager
def distributed_errors() -> Iterator[None]:
    """Raise errors of torch.distributed as PeerLost or PeerTimeout."""
    try:
        yield
    except RuntimeError as error:  # DistError is a subclass, but gloo also raises plain ones
        kind = PeerTimeout if "imed out" in str(error) else PeerLost
        raise kind(f"torch.distributed: {error}") from error


class Connections:
    """An actor's connections to the others of its fleet.

    Attributes:
        rank: of this actor.
        connected: whether it is connected.
        nccl: whether the group's backend for GPUs is NCCL.
    """

    def __init__(self) -> None:
        self.rank = 0
        self.connected = False
        self.nccl = False
        self._local: dict[int, LocalPeer] = {}
        self._listener: Listener | None = None
        self._store: dist.TCPStore | None = None
        self._awaited: list[LocalPeer] = []
        self._transfers: list[Any] = []  # works of torch.distributed

    def listen(self, rendezvous: Rendezvous) -> tuple[int, str]:
        """Start listening, on the server; returns the store's port and the socket's path, 0 and "" if not needed."""
        self.disconnect()
        if rendezvous.local:
            self._listener = Listener(rendezvous.timeout)
        if rendezvous.backend is not None:
            timeout = timedelta(seconds=rendezvous.timeout)
            self._store = dist.TCPStore(rendezvous.host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        return self._store.port if self._store else 0, self._listener.path if self._listener else ""

    def connect(self, rendezvous: Rendezvous, port: int, path: str, rank: int) -> None:
        """Connect; returns once all actors have connected."""
        if rank:
            self.disconnect()
            if rank in rendezvous.local:
                self._local[0] = LocalPeer.connect(path, rank, rendezvous.timeout)
        self.rank = rank
        if rendezvous.backend is not None:
            with distributed_errors():
                self._init_process_group(rendezvous, port)
        if self._listener is not None:
            self._local = self._listener.accept(len(rendezvous.local))
            self._close_listener()
        self.connected = True

    def _init_process_group(self, rendezvous: Rendezvous, port: int) -> None:
        assert rendezvous.backend is not None
        timeout = timedelta(seconds=rendezvous.timeout)
        if self.rank:
            self._store = dist.TCPStore(rendezvous.host, port, is_master=False, timeout=timeout)
        if rendezvous.host == LOOPBACK and sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        elif os.environ.get("GLOO_SOCKET_IFNAME") == "lo":  # set for a group before a node was lost
            del os.environ["GLOO_SOCKET_IFNAME"]
        dist.init_process_group(
            rendezvous.backend, store=self._store, rank=self.rank, world_size=rendezvous.size, timeout=timeout
        )
        self.nccl = "nccl" in rendezvous.backend

    def disconnect(self) -> None:
        """Close all connections; the other actors notice at once."""
        self.connected = False
        self._awaited.clear()
        self._transfers.clear()  # they would keep connections open, and the other actors waiting
        for peer in self._local.values():
            peer.close()
        self._local = {}
        self._close_listener()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None
        self.nccl = False

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def uses_nccl(self, device: torch.device) -> bool:
        """Whether tensors are sent from this device directly, without a copy on the host."""
        return self.nccl and device.type == "cuda"

    def shares_memory(self, rank: int, device: torch.device) -> bool:
        """Whether runs on this device exchange tensors with that actor by shared memory."""
        return rank in self._local and not self.uses_nccl(device)

    def allocate(self, size: int, device: torch.device) -> Tensor:
        """Zeros (size,) for what a run on this device exchanges; the server's are shared with its local peers."""
        if self.uses_nccl(device):
            return torch.zeros(size, device=device)
        if not self._local:
            return torch.zeros(size)
        return self._local[0].receive_memory(size) if self.rank else share_memory(list(self._local.values()), size)

    def send(self, rank: int, *tensors: Tensor) -> None:
        """Start sending tensors made by :meth:`allocate`; :meth:`wait` before they are written to again."""
        if self.shares_memory(rank, tensors[0].device):
            self._local[rank].notify()
            return
        with distributed_errors():
            for tensor in tensors:
                self._transfers.append(dist.isend(tensor, rank))

    def receive(self, rank: int, *tensors: Tensor) -> None:
        """Start receiving into tensors made by :meth:`allocate`; they are complete after :meth:`wait`."""
        if self.shares_memory(rank, tensors[0].device):
            self._awaited.append(self._local[rank])
            return
        with distributed_errors():
            for tensor in tensors:
                self._transfers.append(dist.irecv(tensor, rank))

    def wait(self, until: float, device: torch.device) -> None:
        """Wait for all that was started in a run on this device, until this time of the monotonic clock.

        With NCCL the group's own timeout applies: to wait with another one would block the host.
        """
        for peer in self._awaited:
            peer.wait(until)
        self._awaited.clear()
        with distributed_errors():
            for index in range(len(self._transfers)):  # no name for one, which a traceback would keep
                if self.uses_nccl(device):
                    self._transfers[index].wait()
                else:
                    self._transfers[index].wait(timedelta(seconds=max(1e-3, until - time.monotonic())))
        self._transfers.clear()
