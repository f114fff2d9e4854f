"""Actors on one machine: shared memory, and Unix sockets that signal when it holds something new.

Shared memory needs no copies, and no threads that have to wake up for a transfer, as gloo has on loopback.
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

# Anonymous memory files and abstract socket names exist on Linux only.
AVAILABLE = sys.platform == "linux"

# How long a listener waits for its peers, in seconds: all of them have answered a call just before.
ACCEPT_SECONDS = 10.0


class PeerLost(Exception):
    """The actor at the other end of a connection closed it or died."""


class PeerTimeout(PeerLost):
    """The actor at the other end of a connection sent nothing in time."""


class Listener:
    """A server's socket for connections from actors on the same machine.

    Args:
        timeout: an actor that sends nothing for this many seconds counts as lost.

    Attributes:
        path: the abstract name of the socket; it is not a file, so nothing is left behind if this process is killed.
    """

    def __init__(self, timeout: float) -> None:
        self.path = f"byzray-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._timeout = timeout
        self._socket.settimeout(min(timeout, ACCEPT_SECONDS))
        self._socket.bind(f"\0{self.path}")
        self._socket.listen(socket.SOMAXCONN)

    def accept(self, count: int) -> dict[int, "LocalPeer"]:
        """Accept `count` connections; returns them by rank."""
        peers: dict[int, LocalPeer] = {}
        while len(peers) < count:
            with _socket_errors():
                connection, _ = self._socket.accept()
            if not _same_user(connection):  # any user of this machine can see the name
                connection.close()
                continue
            peer = LocalPeer(connection, self._timeout)
            peers[peer.receive_rank()] = peer
        return peers

    def close(self) -> None:
        """Accept no more connections; the existing ones stay open."""
        self._socket.close()


class LocalPeer:
    """A connection to an actor on this machine."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.settimeout(timeout)
        self._connection = connection

    @classmethod
    def connect(cls, path: str, rank: int, timeout: float) -> Self:
        """Connect to a server's listener, as the actor of this rank."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _socket_errors():
            connection.connect(f"\0{path}")
            if not _same_user(connection):
                raise PeerLost("a process of another user listens on the server's socket name")
            connection.sendall(rank.to_bytes(4, "big"))
        return cls(connection, timeout)

    def receive_rank(self) -> int:
        """The rank that the peer sends when it connects."""
        with _socket_errors():
            rank = self._connection.recv(4, socket.MSG_WAITALL)
            _check_open(rank)
        return int.from_bytes(rank, "big")

    def notify(self) -> None:
        """Signal that the shared memory holds what the peer waits for."""
        with _socket_errors():
            self._connection.sendall(b".")

    def wait(self, until: float) -> None:
        """Wait for the peer's :meth:`notify`, until this time of the monotonic clock."""
        self._connection.settimeout(max(1e-3, until - time.monotonic()))
        with _socket_errors():
            _check_open(self._connection.recv(1))

    def send_memory(self, descriptor: int) -> None:
        """Send the file descriptor of a memory file."""
        with _socket_errors():
            socket.send_fds(self._connection, [b"."], [descriptor])

    def receive_memory(self, size: int) -> Tensor:
        """The memory (size,) whose file descriptor the peer sends."""
        with _socket_errors():
            received, descriptors, _, _ = socket.recv_fds(self._connection, 1, 1)
            _check_open(received)
        return map_memory(descriptors[0], size)

    def close(self) -> None:
        """Close the connection; the peer notices at once."""
        self._connection.close()


@contextmanager
def _socket_errors() -> Iterator[None]:
    """Raise socket errors as PeerLost or PeerTimeout."""
    try:
        yield
    except TimeoutError as error:
        raise PeerTimeout("the other end of a connection sent nothing in time") from error
    except (ConnectionError, FileNotFoundError) as error:
        raise PeerLost("the connection was closed by the other end") from error


def _same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to the same user."""
    format = "3i"  # process, user, group
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(format))
    return struct.unpack(format, credentials)[1] == os.geteuid()


def _check_open(received: bytes) -> None:
    if not received:
        raise PeerLost("the connection was closed by the other end")


def share_memory(peers: list[LocalPeer], size: int) -> Tensor:
    """New memory (size,), zero, shared with these peers, which call :meth:`LocalPeer.receive_memory`.

    It has no name, so nothing is left behind however the actors end.
    """
    descriptor = os.memfd_create("byzray")
    try:
        os.ftruncate(descriptor, size * torch.float32.itemsize)
        for peer in peers:
            peer.send_memory(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return map_memory(descriptor, size)


def map_memory(descriptor: int, size: int) -> Tensor:
    """A memory file as a tensor (size,); closes the descriptor."""
    try:
        return torch.frombuffer(mmap.mmap(descriptor, size * torch.float32.itemsize), dtype=torch.float32)
    finally:
        os.close(descriptor)
