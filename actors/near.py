"""Actors on one machine: memory that they share, and connections that say when something new lies in it.

What is shared is not sent, and no other threads need to wake up for it, as with gloo on loopback.
"""

import mmap
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

# Whether this system has memory without a name.
AVAILABLE = sys.platform == "linux"

# How long the actors that are expected may take to come in, in seconds: all have answered just before.
ENTRY_SECONDS = 10.0


class PeerLost(Exception):
    """The actor at the other end of a connection has closed it, or ended."""


class PeerSilent(PeerLost):
    """The actor at the other end of a connection has sent nothing for too long."""


class Door:
    """Where a server waits for the actors on its machine.

    Args:
        deadline: after so many seconds an actor that sends nothing counts as lost.

    Attributes:
        path: the name of the socket, which is that of no file: none is left behind if this actor is killed meanwhile.
    """

    def __init__(self, deadline: float) -> None:
        self.path = f"byzray-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._deadline = deadline
        self._socket.settimeout(min(deadline, ENTRY_SECONDS))
        self._socket.bind(f"\0{self.path}")
        self._socket.listen(socket.SOMAXCONN)

    def admit(self, count: int) -> dict[int, "Near"]:
        """The connections of so many actors, by rank."""
        found: dict[int, Near] = {}
        while len(found) < count:
            with _losing():
                connection, _ = self._socket.accept()
            if not _is_own(connection):  # everybody on this machine can see the name
                connection.close()
                continue
            near = Near(connection, self._deadline)
            found[near.number()] = near
        return found

    def close(self) -> None:
        """Nobody comes in any more; those who did stay connected."""
        self._socket.close()


class Near:
    """A connection to an actor on this machine."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        connection.settimeout(deadline)
        self._connection = connection

    @classmethod
    def enter(cls, path: str, rank: int, deadline: float) -> Self:
        """Connect to a server's door."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _losing():
            connection.connect(f"\0{path}")
            if not _is_own(connection):
                raise PeerLost("another user has taken the name of the server's door")
            connection.sendall(rank.to_bytes(4, "big"))
        return cls(connection, deadline)

    def number(self) -> int:
        """The rank with which the other end came in."""
        with _losing():
            rank = self._connection.recv(4, socket.MSG_WAITALL)
            _check(rank)
        return int.from_bytes(rank, "big")

    def signal(self) -> None:
        """Tell the other end that what it waits for lies in the shared memory."""
        with _losing():
            self._connection.sendall(b".")

    def wait(self, until: float) -> None:
        """Wait for a signal, until some time of the monotonic clock."""
        self._connection.settimeout(max(1e-3, until - time.monotonic()))
        with _losing():
            _check(self._connection.recv(1))

    def share(self, memory: int) -> None:
        """Send the descriptor of a memory."""
        with _losing():
            socket.send_fds(self._connection, [b"."], [memory])

    def shared(self, size: int) -> Tensor:
        """The memory of `size` numbers whose descriptor the other end sends."""
        with _losing():
            heard, descriptors, _, _ = socket.recv_fds(self._connection, 1, 1)
            _check(heard)
        return mapped(descriptors[0], size)

    def close(self) -> None:
        """Close the connection, which the other end notices at once."""
        self._connection.close()


@contextmanager
def _losing() -> Iterator[None]:
    """Turn what sockets raise into what it means."""
    try:
        yield
    except TimeoutError as error:
        raise PeerSilent("the other end of a connection sent nothing for too long") from error
    except (ConnectionError, FileNotFoundError) as error:
        raise PeerLost("the connection was closed by the other end") from error


def _is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end is of the same user."""
    format = "3i"  # process, user, group
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(format))
    return struct.unpack(format, credentials)[1] == os.geteuid()


def _check(heard: bytes) -> None:
    if not heard:
        raise PeerLost("the connection was closed by the other end")


def shared_among(peers: list[Near], size: int) -> Tensor:
    """New memory of `size` numbers, zero, that the other ends see too.

    It has no name, so that nothing is left behind however the actors end.
    """
    memory = os.memfd_create("byzray")
    try:
        os.ftruncate(memory, size * torch.float32.itemsize)
        for peer in peers:
            peer.share(memory)
    except BaseException:
        os.close(memory)
        raise
    return mapped(memory, size)


def mapped(memory: int, size: int) -> Tensor:
    """A memory as `size` numbers; the descriptor is closed."""
    try:
        return torch.frombuffer(mmap.mmap(memory, size * torch.float32.itemsize), dtype=torch.float32)
    finally:
        os.close(memory)
