"""The Ray cluster that actors run on."""

import logging
import os
import signal
import socket
import tempfile
import threading
from typing import Any

import ray

from actors.imports import worker_environment
from actors.supervision import FleetError

# Enough for CIFAR-10 twice over; Ray would take 30 % of the memory.
OBJECT_STORE_BYTES = 500 * 2**20

# How long a connection to a cluster may take, and how long its first answer, in seconds.
CONNECT_SECONDS = 5.0

# The HTTP/2 connection preface of a gRPC client, with an empty SETTINGS frame; a server answers with SETTINGS, too.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
FRAME_HEADER = 9
SETTINGS = 4


IN_PROCESS = "compute without Ray (byzray run --in-process)"

logger = logging.getLogger(__name__)


def connect(address: str | None = None, dashboard: bool = True, output: bool = True) -> bool:
    """Unless Ray is connected already: connect to the cluster at `address` or $RAY_ADDRESS, else start Ray here.

    Args:
        address: of a running cluster, as Ray understands it (``auto``, ``host:6379``, ``ray://host:10001``).
        dashboard: whether a cluster started here has a dashboard, on the loopback interface.
        output: whether to print the output of actors here.

    Returns:
        whether a cluster was started here, which is for this process alone.

    Raises:
        FleetError: no cluster answers at the address, or Ray cannot start here.
    """
    if ray.is_initialized():
        return False
    where = address or os.environ.get("RAY_ADDRESS")
    if not where or where == "local":
        _init(
            address="local",
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            log_to_driver=output,
        )
        return True
    given = "--address" if address else "RAY_ADDRESS"
    alternative = "leave it out" if address else "unset it"
    reason = nobody_at(where)
    try:
        if not reason:
            _init(address=where, log_to_driver=output)
    except (ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split())
    if reason:
        raise FleetError(
            f"{given}: got {where!r}: {reason}; expected the HOST:PORT of a running Ray cluster, "
            f"which `ray start --head` prints; {alternative} to start one here"
        )
    return False


def nobody_at(address: str) -> str:
    """Why no Ray cluster answers at an address, within seconds; Ray itself would try for minutes.

    Returns:
        the reason; empty if a gRPC server answers, or if only Ray can tell, as for ``auto``.
    """
    scheme, separator, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        return "this is the address of a dashboard, for `ray job`"
    if address == "auto" or (separator and scheme != "ray"):
        return ""
    host, _, port = rest.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        return "no HOST:PORT"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            return "" if os.environ.get("RAY_USE_TLS") == "1" else _not_grpc(connection)
    except OSError as error:
        return f"nothing answers there ({error.strerror or error})"


def _not_grpc(connection: socket.socket) -> str:
    """Why the server at the other end is not Ray, "" if it may be; works without TLS only."""
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.sendall(PREFACE)
        received = connection.recv(FRAME_HEADER, socket.MSG_WAITALL)
    except TimeoutError:
        return f"it accepts connections but sends nothing within {CONNECT_SECONDS:g} s"
    if len(received) == FRAME_HEADER and received[3] == SETTINGS:
        return ""
    return "something other than Ray answers there"


def _init(address: str | None, **options: Any) -> None:
    """`ray.init`, with installed modules before those in the user's folder, and without Ray's advice on tokens. The
    caller's handler of SIGTERM, which Ray replaces, is put back.

    Raises:
        FleetError: Ray cannot start here, for a reason that the user can fix.
    """
    try:
        os.getcwd().encode()
    except UnicodeEncodeError:
        raise FleetError(f"Ray needs a working folder whose name is UTF-8, got {os.getcwd()!r}; {IN_PROCESS}") from None
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logger.info("starting Ray" if address == "local" else "connecting to Ray")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, runtime_env=worker_environment(address), **options)
    except (OSError, RuntimeError) as error:
        if reason := _why_not(error):
            raise FleetError(reason) from error
        raise
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _why_not(error: Exception) -> str:
    """Why Ray did not start, and what to do; empty if its own message says so."""
    if "AF_UNIX" in str(error):
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        return (
            f"the names of Ray's sockets would be too long below {folder}: "
            f"set RAY_TMPDIR to a shorter folder, or {IN_PROCESS}"
        )
    token, missed = os.path.expanduser("~/.ray/auth_token"), getattr(error, "filename", None)
    if (missed and token.startswith(str(missed))) or "home directory" in str(error):
        return f"Ray cannot write its token to {token} ({error}): set HOME to a folder of your own, or {IN_PROCESS}"
    return ""
