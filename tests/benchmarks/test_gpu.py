"""What the GPU benchmark makes of its measurements; those themselves need a GPU."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from byzray import Setup
from byzray.data import load_data
from byzray.metrics import Moments
from byzray.simulation import LocalSimulation

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu


def figures(pace: float) -> dict[str, Any]:
    """Those of a device on which every step takes so long, and evaluations no time."""
    alone = {f"{name} {rule}": {"seconds a step": pace, "evaluation": 0.0} for name, rule in kinds()}
    at_once = {name: [{"runs": 1, "steps/s": 1 / pace}, {"runs": 4, "steps/s": 2 / pace}] for name in ("mnist",)}
    return {"alone": alone, "at once": at_once}


def kinds() -> set[tuple[str, str]]:
    return {gpu.kind(setup) for setup in gpu.paper_setups()}


def test_every_setup_of_the_paper_is_like_one_that_is_measured() -> None:
    assert len(gpu.paper_setups()) == 736
    measured = gpu.representatives("cpu", gpu.FULL)
    assert measured.keys() == kinds()
    assert len(measured) == 4 * (6 + 1)
    assert {(setup.workers, setup.byzantine) for (_, rule), setup in measured.items() if rule == "median"} == {
        (51, 24),
        (25, 11),
    }


def test_time_of_the_whole_paper() -> None:
    found = gpu.whole_paper(figures(0.01))
    assert (found["runs"], found["unmeasured"]) == (3680, 0)
    mnist, cifar = found["data sets"]["mnist"], found["data sets"]["cifar10"]
    assert mnist["hours, one at a time"] == pytest.approx(mnist["runs"] * 300 * 0.01 / 3600)
    assert (mnist["at once"], mnist["hours"]) == (4, pytest.approx(mnist["hours, one at a time"] / 2))
    assert cifar["hours"] == pytest.approx(cifar["runs"] * 3000 * 0.01 / 3600)
    lacking = figures(0.01)
    lacking["alone"]["mnist median"] = {"failed": "OutOfMemoryError: CUDA out of memory"}
    assert gpu.whole_paper(lacking)["unmeasured"] > 0


def test_waits_are_counted_by_the_line_of_byzray(small_setup: Setup) -> None:
    simulation = LocalSimulation(small_setup, load_data(small_setup))
    original = Moments.of

    def waiting(vectors_KD: torch.Tensor) -> Moments:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return original(vectors_KD)

    with patch.object(Moments, "of", waiting), gpu.noted_waits() as lines:
        simulation.advance(2)
    assert sum(lines.values()) >= 2
    assert all(line.startswith("byzray/") and "Moments.of" in line for line in lines)


def test_samples_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '40\\n[N/A]\\n60\\n'\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: object())
    found: dict[str, Any] = {}
    with gpu.watched("cuda", found):
        subprocess.run(["sleep", "0.3"], check=True)
    assert found["busy"] == {"percent": 50.0, "by": "nvidia-smi", "samples": 2}


def test_without_a_gpu() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, gpu.__file__], capture_output=True, text=True, env=hidden)
    assert done.returncode == 2
    assert "sees no NVIDIA GPU here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
