"""The simulation in one file of plain PyTorch: it computes what byzray computes."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from byzray import load_setup, simulate
from byzray.data import load_data
from byzray.division import worker_stream
from byzray.gradients import Network

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 60
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def one_file() -> dict[str, Any]:
    with torch.random.fork_rng():
        return runpy.run_path(str(EXAMPLES / "one_file.py"))


def simulated(placement: str) -> tuple[Tensor, Tensor, Tensor]:
    """The initial parameters (D,) and the batches (S, H, B) that byzray draws for digits.yaml, and the parameters (D,)
    with which it ends."""
    changes = {"steps": STEPS, "momentum.placement": placement, "actors": None, "study": "off"}
    setup = load_setup(EXAMPLES / "digits.yaml", changes)
    data = load_data(setup)
    stream = worker_stream(data, setup, CPU)
    rows = [torch.from_numpy(stream.indices(range(setup.honest), step)) for step in range(STEPS)]
    initial_D = Network(setup, data.shape, data.classes, CPU).initial_parameters()
    rows_SHB = torch.stack(rows).view(STEPS, setup.honest, setup.batch_size)
    return initial_D, rows_SHB, torch.from_numpy(simulate(setup).parameters)


@pytest.mark.parametrize("placement", ["update", "worker"])
def test_the_parameters_are_those_of_byzray(one_file: dict[str, Any], placement: str) -> None:
    initial_D, rows_SHB, expected_D = simulated(placement)

    def deviation(*arguments: Any) -> float:
        return ((one_file["train"](initial_D, rows_SHB, *arguments) - expected_D).norm() / expected_D.norm()).item()

    at_workers = placement == "worker"
    assert deviation(at_workers) < 1e-5
    assert deviation(at_workers, one_file["median"]) > 0.1, "another rule is noticed"
    assert deviation(not at_workers) > 0.1, "and another placement"


def test_momentum_at_the_workers_raises_the_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / "one_file.py"), run_name="__main__")
    update, workers = map(float, re.findall(r"accuracy (0\.\d{3})$", capsys.readouterr().out, re.MULTILINE))
    assert workers > update + 0.2
