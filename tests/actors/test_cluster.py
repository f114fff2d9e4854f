"""Addresses without a Ray cluster: an error within seconds, where Ray would wait for minutes."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray

from actors.cluster import nobody_at

SETUP = "{dataset: digits, model: {name: mlp, hidden: [4]}, steps: 2, workers: 3, aggregator: average}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Accepts connections, as the kernel does for a stopped process."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def stranger() -> Iterator[str]:
    """An HTTP server, like a dashboard."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_is_not_ray_is_recognised(
    ray_cluster: str, closed: str, silent: str, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.cluster.CONNECT_SECONDS", 0.5)
    assert nobody_at(closed) == nobody_at(f"ray://{closed}") == "nothing answers there (Connection refused)"
    assert nobody_at(silent) == "it accepts connections but sends nothing within 0.5 s"
    assert nobody_at(stranger) == "something other than Ray answers there"
    monkeypatch.undo()
    assert nobody_at(ray.get_runtime_context().gcs_address) == ""


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "https://cluster.example/", "127.0.0.1", ":6379", "a:b", "a:99999"]
)
def test_no_connection_is_tried_to_an_invalid_address(address: str) -> None:
    assert nobody_at(address) == (
        "this is the address of a dashboard, for `ray job`" if "//" in address else "no HOST:PORT"
    )


def test_the_error_names_the_address_and_its_source(closed: str, tmp_path: Path) -> None:
    (tmp_path / "setup.yaml").write_text(SETUP)
    (tmp_path / "sweep.yaml").write_text(f"base: {SETUP}\naxes: {{steps: [2]}}\n")

    def said(*command: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "byzray", *command],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,  # Ray alone would wait for nine minutes
        )
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        return done.stderr

    expected = "which `ray start --head` prints"
    dead = said("run", "setup.yaml", RAY_ADDRESS=closed)
    assert f"RAY_ADDRESS: got '{closed}': nothing answers there (Connection refused); expected" in dead
    assert f"{expected}; unset it to start one here" in dead
    given = said("sweep", "sweep.yaml", "--address", closed, RAY_ADDRESS="")
    assert f"--address: got '{closed}': nothing answers there" in given
    assert f"{expected}; leave it out to start one here" in given
    assert "address of a dashboard" in said("run", "setup.yaml", RAY_ADDRESS=f"http://{closed}")


def test_the_handler_of_sigterm_stays(ray_cluster: str) -> None:
    """Ray sets one of its own; the commands save runs in theirs."""
    code = (
        "import signal, sys, actors\n"
        "def stop(*_): pass\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "actors.connect(sys.argv[1], output=False)\n"
        "print(signal.getsignal(signal.SIGTERM) is stop)"
    )
    command = [sys.executable, "-c", code, ray.get_runtime_context().gcs_address]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] == "True"
