"""The Ray cluster that actors run on."""

import logging
import os
import tempfile
from typing import Any

import ray

from actors.imports import worker_environment
from actors.supervision import FleetError

# Enough for CIFAR-10 twice over; Ray would take 30 % of the memory.
OBJECT_STORE_BYTES = 500 * 2**20

IN_PROCESS = "compute without Ray (--in-process)"

logger = logging.getLogger(__name__)


def connect(address: str | None = None, dashboard: bool = True, output: bool = True) -> None:
    """Make sure that Ray runs: join the cluster at `address` or $RAY_ADDRESS, else start one on this machine.

    Args:
        address: of a running cluster, as Ray understands it (``auto``, ``host:6379``, ``ray://host:10001``).
        dashboard: whether a cluster started here gets a dashboard, on the loopback interface.
        output: whether what actors print appears here.
    """
    if ray.is_initialized():
        return
    if address or os.environ.get("RAY_ADDRESS"):
        _init(address=address, log_to_driver=output)
    else:
        _init(
            address="local",
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            log_to_driver=output,
        )


def _init(address: str | None, **options: Any) -> None:
    """`ray.init`, with what is installed before what lies in the user's folder, and without advice on tokens.

    Raises:
        FleetError: Ray cannot start here, for a reason that the user can do something about.
    """
    try:
        os.getcwd().encode()
    except UnicodeEncodeError:
        raise FleetError(f"Ray needs a working folder whose name is UTF-8, got {os.getcwd()!r}; {IN_PROCESS}") from None
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logger.info("starting Ray" if address == "local" else "connecting to Ray")
    try:
        ray.init(address=address, runtime_env=worker_environment(address), **options)
    except (OSError, RuntimeError) as error:
        if reason := _why_not(error):
            raise FleetError(reason) from error
        raise


def _why_not(error: Exception) -> str:
    """Why Ray did not start, and what to do; empty if it says so itself."""
    if "AF_UNIX" in str(error):
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        return (
            f"the names of Ray's sockets would be too long below {folder}: "
            f"set RAY_TMPDIR to a shorter folder, or {IN_PROCESS}"
        )
    token = os.path.expanduser("~/.ray/auth_token")
    if token.startswith(str(getattr(error, "filename", None) or "~")) or "home directory" in str(error):
        return f"Ray cannot write its token to {token} ({error}): set HOME to a folder of your own, or {IN_PROCESS}"
    return ""
