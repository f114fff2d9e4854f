"""What Python callers get: the trained weights, short reprs, and a bar where somebody looks on."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from byzray import Setup, simulate
from byzray.gradients import Network
from byzray.models import Model


class Tied(Model):
    """Two layers with one weight, a frozen layer and BatchNorm."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        first, second, frozen = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        second.weight = first.weight
        frozen.requires_grad_(False)
        return nn.Sequential(first, second, frozen, nn.BatchNorm1d(5), nn.Linear(5, classes), nn.LogSoftmax(dim=1))


@pytest.mark.parametrize("model", [{"name": "mlp", "hidden": [4]}, Tied()], ids=["mlp", "tied and frozen"])
def test_the_weights_as_pytorch_loads_them(small_setup: Setup, model: object) -> None:
    setup = small_setup.changed(model=model)
    result = simulate(setup)
    module = setup.model.build((5,), 2)
    module.load_state_dict(result.state_dict())
    data = setup.dataset.load(Path(), download=False)
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    share = (module.eval()(x).argmax(dim=1) == y).double().mean().item()
    assert share == result.last_accuracy
    trained = [parameter.flatten() for parameter in module.parameters() if parameter.requires_grad]
    assert np.array_equal(torch.cat(trained).detach().numpy(), result.parameters)


def test_a_network_keeps_no_parameters_that_it_does_not_use(small_setup: Setup) -> None:
    network = Network(small_setup.changed(model=Tied()), (5,), 2, torch.device("cpu"))
    sizes = {name: parameter.untyped_storage().nbytes() // 4 for name, parameter in network.module.named_parameters()}
    assert {name for name, size in sizes.items() if size > 1} == {"2.weight", "2.bias"}, "the frozen ones are used"


def test_reprs_are_short(small_setup: Setup) -> None:
    assert repr(small_setup) == "<Setup npz, mlp, multi-krum/little seed 1, n = 7, f = 2, momentum at worker>"
    assert str(small_setup) == repr(small_setup)
    assert "aggregator: {name: multi-krum" in small_setup._repr_html_()
    result = simulate(small_setup)
    accuracies = f"accuracy {result.last_accuracy:.4f}, best {result.best_accuracy:.4f}"
    assert repr(result) == f"<Result of multi-krum/little seed 1: 12 steps, {accuracies}>"
    assert f"<td>{result.last_accuracy:.4f}</td>" in result._repr_html_()


SCRIPT = """
from byzray import Setup, simulate
simulate(Setup.model_validate({"steps": 20, "workers": 5, "model": {"name": "mlp", "hidden": [4]}}))
"""


def test_a_bar_on_a_terminal_and_nothing_in_a_log() -> None:
    plain = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (plain.stdout, plain.stderr) == ("", "")
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the terminal is closed
            pass
        assert process.communicate()[0] == b""
    os.close(ours)
    assert "multi-krum/no attack seed 1: step " in shown.decode()
