"""What tests share: one local Ray cluster and one fleet for the whole session."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from byzray import Setup

# Small tensors gain nothing from more.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A real local cluster; yields the address of its dashboard, which answers the state API."""
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112  Ray's own spelling; live metrics are waited for
    context = ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=300 * 2**20,
        include_dashboard=True,
        log_to_driver=False,  # a line of Ray's would land in whatever output a test reads at that moment
    )
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.fixture(scope="session")
def fleet(ray_cluster: str) -> Iterator["object"]:
    """Three worker actors and a server, for runs with at least three honest workers; sweeps need the other CPUs."""
    from actors import Fleet
    from actors.fleet import split
    from byzray.setups import Actors

    with Fleet("shared", split(3, 3), Actors(cpus_per_actor=0.1)) as started:
        yield started


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 + 20 examples with 5 features and 2 classes, as an .npz file."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = (x @ rng.normal(size=5) + 0.3 * rng.normal(size=80) > 0).astype(np.int64)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


@pytest.fixture
def small_setup(small_data: Path) -> Setup:
    """Five honest workers and two Byzantine ones on the small data set; a step takes a millisecond."""
    return Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(small_data)},
            "model": {"name": "mlp", "hidden": [4]},
            "steps": 12,
            "batch_size": 4,
            "learning_rate": 0.1,
            "workers": 7,
            "byzantine": 2,
            "aggregator": "multi-krum",
            "attack": "little",
            "evaluation_interval": 3,
            "study": {"past": 3},
        }
    )
