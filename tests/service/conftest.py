"""A real service that the tests of this folder share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running_service import PATIENCE, Running, free_port

from byzray.client import Client


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service without tokens, with two CPUs."""
    folder = tmp_path_factory.mktemp("service")
    running = Running(folder / "storage", free_port(), ("--num-cpus", "2", "--num-gpus", "0"))
    running.start()
    yield running
    family = running.family()
    assert running.stop() == 0, running.log()
    left = psutil.wait_procs(family, timeout=20)[1]
    assert not [process.cmdline() for process in left]


@pytest.fixture
def client(service: Running, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("BYZRAY_SERVICE", service.url)
    monkeypatch.delenv("BYZRAY_TOKEN", raising=False)
    return service.client()


@pytest.fixture
def command(service: Running, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command in a process of its own, as in another terminal of 80 columns."""

    def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        known = {**os.environ, "BYZRAY_SERVICE": service.url, "COLUMNS": "80", **environment}
        command = [sys.executable, "-m", "byzray", *words]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=PATIENCE)

    return run


@pytest.fixture
def curl(service: Running) -> Callable[..., str]:
    """Runs curl, as its user would."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl: apt-get install curl")

    def run(path: str, *options: str) -> str:
        command = ["curl", "--silent", "--max-time", "60", *options, f"{service.url}{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run
