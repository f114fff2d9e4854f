"""The program of the Docker image that runs a sweep as a job, on a head of its own that is killed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).parents[2] / "docker/bin/sweep-job"

# A head that answers asks for it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}

WITHIN = 400.0  # seconds, far more than any wait takes

SWEEP = """
base:
  dataset: digits
  model: {name: mlp, hidden: [4]}
  steps: 100000
  evaluation_interval: 100
  workers: 3
  aggregator: average
axes: {learning_rate: [0.1]}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A head in processes of its own, and the address of its dashboard."""
    port, dashboard = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--head", "--port", str(port)]
    command += ["--num-cpus", "1", "--object-store-memory", str(100 * 2**20), "--disable-usage-stats"]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "head.txt").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **TOKEN, "PATH": path})
    deadline = time.monotonic() + WITHIN
    while socket.socket().connect_ex(("127.0.0.1", dashboard)):
        assert process.poll() is None, (tmp_path / "head.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield process, f"http://127.0.0.1:{dashboard}"
    kill(process)


def kill(head: subprocess.Popen[bytes]) -> None:
    processes = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    for process in [*processes, head]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    head.wait()


def start(folder: Path, address: str) -> subprocess.Popen[str]:
    """The program, with the folders of the container replaced."""
    text = PROGRAM.read_text()
    for place in ("/sweep", "/results"):
        (folder / place[1:]).mkdir(exist_ok=True)
        assert f'"{place}' in text
        text = text.replace(f'"{place}', f'"{folder}{place}')
    (folder / "sweep/mine.yaml").write_text(SWEEP)
    (folder / "job.py").write_text(text)
    command = [sys.executable, str(folder / "job.py"), "mine.yaml"]
    environment = {**os.environ, **TOKEN, "RAY_ADDRESS": address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.chaos  # a cluster of its own
@pytest.mark.timeout(1200)
def test_a_head_that_dies_ends_a_job_with_a_message(head: tuple[subprocess.Popen[bytes], str], tmp_path: Path) -> None:
    job = start(tmp_path, head[1])
    deadline = time.monotonic() + WITHIN
    while not list(tmp_path.glob("results/mine/runs/*/metrics.csv")):
        if job.poll() is not None:
            said = job.communicate()[0]
            assert "No available agent" in said  # yet
            job = start(tmp_path, head[1])
        if time.monotonic() > deadline:
            job.kill()
            raise AssertionError(job.communicate()[0])
        time.sleep(0.2)
    kill(head[0])
    said, _ = job.communicate(timeout=WITHIN)
    assert job.returncode == 1
    assert "byzray: no valid answer from the cluster's head: " in said
    assert "the same command continues it" in said
    assert "Traceback" not in said


def test_a_head_that_is_not_there_is_told(tmp_path: Path) -> None:
    said, _ = start(tmp_path, f"http://127.0.0.1:{free_port()}").communicate(timeout=WITHIN)
    assert "byzray: no valid answer from the cluster's head: " in said
    assert "Traceback" not in said
