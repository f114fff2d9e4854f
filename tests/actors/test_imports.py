"""Modules in the user's folder do not shadow installed ones of the same name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from actors.imports import shadowing, worker_environment

SETUP = """
model: {name: mlp, hidden: [4]}
steps: 2
workers: 5
byzantine: 1
attack: empire
aggregator: own_median:Median
actors: {workers_per_actor: 4, cpus_per_actor: 0.1}
"""

SWEEP = """
base: {model: {name: mlp, hidden: [4]}, steps: 2, workers: 5, byzantine: 1, attack: empire, actors: none}
axes: {aggregator: ["own_median:Median"]}
reference: false
"""

OWN = "from byzray.aggregators import Median as Ours\n\n\nclass Median(Ours):\n    name = 'own'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a setup, a sweep, a user's own rule, and modules that record that they were imported."""
    for name in ("actors", "sweeps", "pandas", "queue"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    (tmp_path / "setup.yaml").write_text(SETUP)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "own_median.py").write_text(OWN)
    return tmp_path


def imported(folder: Path, *command: str, **environment: str) -> str:
    """What a command imported from the folder that it ran in."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (folder / "imported").read_text() if (folder / "imported").exists() else ""


@pytest.mark.parametrize("command", ["show setup.yaml", "run setup.yaml --in-process", "sweep sweep.yaml --plan"])
def test_of_the_command(command: str, folder: Path) -> None:
    assert imported(folder, "-m", "byzray", *command.split()) == ""


def test_of_the_command_on_ray(folder: Path, ray_cluster: str) -> None:
    address = ray.get_runtime_context().gcs_address
    assert imported(folder, "-m", "byzray", "run", "setup.yaml", RAY_ADDRESS=address) == ""
    options = ("--cpus", "0.1", "--data", str(folder))
    assert imported(folder, "-m", "byzray", "sweep", "sweep.yaml", *options, RAY_ADDRESS=address) == ""


def test_workers_need_no_environment_of_their_own_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert shadowing() == ["actors", "pandas", "queue", "sweeps"]
    assert worker_environment(None) is not None
    assert worker_environment("ray://somewhere:10001") is None
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "own_median.py").write_text(OWN)
    monkeypatch.chdir(elsewhere)
    assert shadowing() == []
    assert worker_environment(None) is None
