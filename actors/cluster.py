"""The Ray cluster that actors run on."""

import os

import ray

# Enough for CIFAR-10 twice over; Ray would take 30 % of the memory.
OBJECT_STORE_BYTES = 500 * 2**20


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
        ray.init(address=address, log_to_driver=output)
    else:
        ray.init(
            address="local",
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            log_to_driver=output,
        )
