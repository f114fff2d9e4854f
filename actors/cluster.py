"""The Ray cluster that actors run on."""

import logging
import os
from typing import Any

import ray

from actors.imports import worker_environment

# Enough for CIFAR-10 twice over; Ray would take 30 % of the memory.
OBJECT_STORE_BYTES = 500 * 2**20

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
    """`ray.init`, with what is installed before what lies in the user's folder, and without advice on tokens."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logger.info("starting Ray" if address == "local" else "connecting to Ray")
    ray.init(address=address, runtime_env=worker_environment(address), **options)
