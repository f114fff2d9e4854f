"""Sweeps that share a cluster take turns."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import sweeps
from byzray import Setup
from sweeps.fair_share import Bundles
from sweeps.queue import NAME, NAMESPACE, Leases, Turns, claims

PATIENCE = 120.0

# Nearly all of the tests' cluster: one at a time.
MOST: Bundles = [{"CPU": 3.0}]


@pytest.fixture
def leases(ray_cluster: str) -> Iterator[list[Leases]]:
    found = [Leases(f"/queue/{name}", name, Turns(name)) for name in ("alice", "bob")]
    yield found
    for one in found:
        one.close()


def test_leases(leases: list[Leases]) -> None:
    alice, bob = leases
    lease = alice.take(MOST, 9)
    assert lease is not None
    assert bob.take(MOST, 9) is None
    assert bob.answer.why == "waiting for 3 CPUs, held by sweep alice of alice (1 run)"
    held = {claim.owner: len(claim.held) for claim, _ in claims()}
    assert held == {"alice": 1, "bob": 0}
    alice.give_back(lease)
    assert bob.take(MOST, 9) is not None
    assert alice.seconds > 0
    bob.close()
    assert "bob" not in {claim.owner for claim, _ in claims()}


def test_the_queue_is_lost(leases: list[Leases]) -> None:
    """It keeps nothing that drivers do not report again."""
    alice, bob = leases
    assert alice.take(MOST, 9) is not None
    ray.kill(ray.get_actor(NAME, NAMESPACE), no_restart=False)
    began = time.monotonic()
    while {claim.owner for claim, _ in claims() if claim.held} != {"alice"}:
        assert bob.take(MOST, 9) is None
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.2)
    assert bob.take(MOST, 9) is None


def test_two_sweeps_on_one_cluster(ray_cluster: str, small_setup: Setup, tmp_path: Path) -> None:
    """The second one does not wait for the end of the first one, which says why it waits."""
    (tmp_path / "base.yaml").write_text(small_setup.changed(steps=1500, evaluation_interval=5, actors=None).yaml())
    (tmp_path / "long.yaml").write_text("{base: base.yaml, seeds: 1-12}")
    (tmp_path / "short.yaml").write_text("{base: base.yaml, seeds: 1-2, reference: false}")
    command = [sys.executable, "-m", "byzray", "sweep", "long.yaml", "--output", "long", "--cpus", "1.75"]
    command += ["--address", ray.get_runtime_context().gcs_address]
    with (tmp_path / "long.log").open("w") as log:
        environment = {**os.environ, "LOGNAME": "alice"}
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        began = time.monotonic()
        while not list((tmp_path / "long" / "runs").glob("*/evaluations.csv")):
            assert first.poll() is None, (tmp_path / "long.log").read_text()
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.2)
        outcome = sweeps.run(tmp_path / "short.yaml", tmp_path / "short", cpus=1.75, turns=Turns("bob"))
        assert (outcome.finished, outcome.complete) == (2, True)
        assert first.poll() is None, (tmp_path / "long.log").read_text()
        done = len(list((tmp_path / "long" / "runs").glob("*/parameters.npy")))
        assert done < 24
    finally:
        first.terminate()
        first.wait(PATIENCE)
    assert "held by sweep short of bob" in (tmp_path / "long.log").read_text()
