"""A second node of the cluster that tests share, on this machine."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

PATIENCE = 120.0


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
