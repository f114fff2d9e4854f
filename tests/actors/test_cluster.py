"""Addresses without a Ray cluster: what is wrong is said within seconds, where Ray would wait for minutes."""

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
    """Accepts connections, as the kernel does for a process that is stopped."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server of HTTP, as a dashboard is."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """Nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_what_answers_is_asked_whether_it_is_ray(
    ray_cluster: str, closed: str, silent: str, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.cluster.CONNECT_SECONDS", 0.5)
    assert nobody_at(closed) == nobody_at(f"ray://{closed}") == "nothing answers there (Connection refused)"
    assert nobody_at(silent) == "it accepts connections but says nothing within 0.5 s"
    assert nobody_at(stranger) == "something other than Ray answers there"
    monkeypatch.undo()
    assert nobody_at(ray.get_runtime_context().gcs_address) == ""


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "https://cluster.example/", "127.0.0.1", ":6379", "a:b", "a:99999"]
)
def test_what_is_no_address_of_a_cluster_is_not_tried(address: str) -> None:
    assert nobody_at(address) == (
        "this is the address of a dashboard, for `ray job`" if "//" in address else "no HOST:PORT"
    )


def test_a_dead_address_is_named_with_where_it_comes_from(closed: str, tmp_path: Path) -> None:
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

    way_out = "which `ray start --head` prints"
    dead = said("run", "setup.yaml", RAY_ADDRESS=closed)
    assert f"RAY_ADDRESS: got '{closed}': nothing answers there (Connection refused); expected" in dead
    assert f"{way_out}; unset it to start one here" in dead
    given = said("sweep", "sweep.yaml", "--address", closed, RAY_ADDRESS="")
    assert f"--address: got '{closed}': nothing answers there" in given
    assert f"{way_out}; leave it out to start one here" in given
    assert "address of a dashboard" in said("run", "setup.yaml", RAY_ADDRESS=f"http://{closed}")
