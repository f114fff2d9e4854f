"""What tests share: one local Ray cluster and one fleet for the whole session, and more nodes where they are needed."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

import byzray.report
from byzray import Setup

# Small tensors gain nothing from more.
torch.set_num_threads(1)

# How long a node may take to join, in seconds.
PATIENCE = 120.0

SAVE_RUN_FIGURE = byzray.report.save_run_figure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` has two processes: one for tests that use the shared Ray cluster or Docker, one for the others."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()) or "docker" in item.nodeid.split("/"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif "service" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("service"))


@pytest.fixture(scope="session", autouse=True)
def _no_figures() -> Iterator[None]:
    """To draw a run's figure takes longer than most runs here; tests that look at it ask for `figures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byzray.report, "save_run_figure", lambda result, folder: None)
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of runs are drawn, as always outside of tests."""
    monkeypatch.setattr(byzray.report, "save_run_figure", SAVE_RUN_FIGURE)


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


@pytest.fixture
def without_privileges() -> Iterator[None]:
    """Files that are closed to their owner are closed to root, too, as they are to other users."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of Linux's capabilities, of this thread
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        pytest.skip("needs a user who is not root: run the tests as one")
    without[:] = before
    without[0] = without[3] = 0  # those in effect; those permitted stay, to be taken up again
    libc.capset(header, without)
    yield
    libc.capset(header, before)


@pytest.fixture(scope="session")
def can_mount() -> bool:
    """Whether processes here can be shown other files than this one."""
    return shutil.which("unshare") is not None and not subprocess.run(["unshare", "--mount", "true"]).returncode


@pytest.fixture(scope="module")
def start_node(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts a node and returns its id; it ends with the module's tests."""
    processes: list[subprocess.Popen[bytes]] = []
    log = tmp_path_factory.mktemp("nodes") / "log.txt"

    def start(*options: str, before: str = "", **environment: str) -> str:
        """With options of `ray start`, shell commands to run before, in a mount namespace of its own, and variables."""
        known = {node["NodeID"] for node in ray.nodes()}
        address = ray.get_runtime_context().gcs_address
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--address", address]
        command += ["--num-cpus", "0", "--object-store-memory", str(100 * 2**20), *options]
        if before:
            command = ["unshare", "--mount", "sh", "-c", f'{before}\nexec "$@"', "sh", *command]
        with log.open("ab") as said:
            processes.append(subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment}))
        deadline = time.monotonic() + PATIENCE
        while not (new := [node["NodeID"] for node in ray.nodes() if node["NodeID"] not in known and node["Alive"]]):
            assert processes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return str(new[0])

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(PATIENCE)


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
