"""The gradients of several workers at once."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from byzray import Setup
from byzray.cohort import Cohort
from byzray.datasets import Data
from byzray.gradients import Gradients, Network, clip
from byzray.layers import DENSE, LAYERS, chain_of
from byzray.models import MLP
from byzray.sampling import Batch

CPU = torch.device("cpu")
K, B = 3, 5


def image_data(shape: tuple[int, ...], classes: int, size: int = 40) -> Data:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(size, *shape)).astype(np.float32), rng.integers(0, classes, size)
    return Data(x_train=x, y_train=y, x_test=x, y_test=y, classes=classes)


def batch_of(data: Data) -> Batch:
    return Batch(torch.from_numpy(data.x_train[: K * B]), torch.from_numpy(data.y_train[: K * B]))


def compute(
    setup: Setup, data: Data, points: torch.Tensor, *, way: str = "layers"
) -> tuple[torch.Tensor, torch.Tensor]:
    network = Network(setup, data.shape, data.classes, CPU)
    gradients = Gradients(network, setup)
    assert gradients.dense is not None
    if way != "layers":
        gradients.dense = None
        gradients.vectorised = way == "vmap"
    out_KD = torch.full((K, network.dimension), torch.nan)
    losses_K = gradients(points, batch_of(data), out_KD, [0] * K, [{} for _ in range(K)])
    return losses_K, out_KD


CASES: list[tuple[dict[str, Any], tuple[int, ...], int]] = [
    ({"model": "mlp", "loss": "nll"}, (6,), 3),
    ({"model": "linear", "loss": "cross-entropy"}, (6,), 3),
    ({"model": "logit", "loss": "bce"}, (6,), 2),
    ({"model": "logit", "loss": "bce"}, (6,), 4),
    ({"model": "linear", "loss": "mse"}, (6,), 2),
    ({"model": "linear", "loss": "mse"}, (6,), 4),
]


@pytest.mark.parametrize(("options", "shape", "classes"), CASES)
@pytest.mark.parametrize("own_points", [False, True])
@pytest.mark.parametrize("regularised", [False, True])
def test_gradients_agree_with_autograd(
    options: dict[str, Any], shape: tuple[int, ...], classes: int, own_points: bool, regularised: bool
) -> None:
    factors = {"l1": 0.01, "l2": 0.1} if regularised else {}
    # npz: a data set whose shape is not known to the setup, so that any model fits.
    setup = Setup.model_validate({"dataset": {"name": "npz", "path": "unused"}, **options, **factors})
    data = image_data(shape, classes)
    network = Network(setup, data.shape, data.classes, CPU)
    theta_D = network.initial_parameters()
    points = theta_D + 0.1 * torch.randn(K, len(theta_D)) if own_points else theta_D
    batch = batch_of(data)
    results = [compute(setup, data, points, way=way) for way in ("layers", "vmap", "one by one")]
    for losses_K, out_KD in results:
        for i in range(K):
            here_D = (points[i] if own_points else points).clone().requires_grad_()
            part = slice(i * B, (i + 1) * B)
            loss = network.criterion(network(here_D, batch.x[part]), batch.y[part]).mean()
            loss = loss + setup.l1 * here_D.abs().sum() + setup.l2 * here_D.norm()
            (expected_D,) = torch.autograd.grad(loss, here_D)
            torch.testing.assert_close(losses_K[i], loss.detach())
            torch.testing.assert_close(out_KD[i], expected_D, rtol=1e-4, atol=1e-6)


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_dense_chains_are_of_linear_layers_and_layers_without_parameters() -> None:
    first, second, third = nn.Linear(4, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)
    flatten, relu, tanh, softmax = nn.Flatten(), nn.ReLU(), nn.Tanh(), nn.LogSoftmax(1)
    network = nn.Sequential(flatten, first, relu, nn.Sequential(second, tanh), Doubling(), third, softmax)
    found = chain_of(network, DENSE)
    assert found is not None
    assert [*found[:5], *found[6:]] == [flatten, first, relu, second, tanh, third, softmax]
    for other in (nn.Conv1d(1, 1, 1), nn.BatchNorm1d(3), nn.PReLU(), nn.Sequential(nn.PReLU()), first):
        assert chain_of(nn.Sequential(first, other), DENSE) is None
    assert chain_of(first, DENSE) is None


class WithHook(MLP):
    """A network of the user's own, whose hook a chain of its layers would not call."""

    name = "with-hook"
    dense = False

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        network = super().build(shape, classes)
        network[1].register_forward_hook(lambda module, inputs, output: 2 * output)  # type: ignore[index]
        return network


def test_only_models_that_declare_it_are_taken_layer_by_layer() -> None:
    data = image_data((6,), 3)
    setup = Setup.model_validate({"dataset": {"name": "npz", "path": "unused"}, "model": "mlp"})
    setup = setup.model_copy(update={"model": WithHook()})
    network = Network(setup, data.shape, data.classes, CPU)
    gradients = Gradients(network, setup)
    assert gradients.dense is None
    results = []
    for gradients.vectorised in (True, False):
        out_KD = torch.empty(K, network.dimension)
        losses_K = gradients(network.initial_parameters(), batch_of(data), out_KD, [0] * K, [{} for _ in range(K)])
        results.append((losses_K, out_KD))
    torch.testing.assert_close(results[0], results[1])


def test_layers_without_bias_and_of_more_dimensions() -> None:
    setup = Setup.model_validate({"dataset": {"name": "npz", "path": "unused"}, "model": "mlp", "loss": "nll"})
    data = image_data((2, 4), 3)
    results = []
    for way in ("layers", "one by one"):
        network = Network(setup, data.shape, data.classes, CPU)
        torch.manual_seed(1)
        layers = [nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(10, 3), nn.LogSoftmax(dim=1)]
        network.module = nn.Sequential(*layers).requires_grad_(False)
        network.shapes = {name: parameter.shape for name, parameter in network.module.named_parameters()}
        network.segments = [slice(0, 20), slice(20, 50), slice(50, 53)]
        gradients = Gradients(network, setup)
        assert gradients.dense is not None
        if way == "one by one":
            gradients.dense, gradients.vectorised = None, False
        theta_D = torch.cat([parameter.flatten() for parameter in network.module.parameters()])
        out_KD = torch.full((K, 53), torch.nan)
        losses_K = gradients(theta_D, batch_of(data), out_KD, [0] * K, [{} for _ in range(K)])
        results.append((losses_K, out_KD))
    torch.testing.assert_close(results[0], results[1])


def test_losses_are_those_of_their_names() -> None:
    output, y = torch.rand(4, 3), torch.tensor([0, 2, 1, 1])
    one_hot = functional.one_hot(y, 3).float()
    expected = {
        "nll": -output[torch.arange(4), y].mean(),
        "cross-entropy": -output.log_softmax(1)[torch.arange(4), y].mean(),
        "bce": -(one_hot * output.log() + (1 - one_hot) * (1 - output).log()).mean(),
        "mse": (output - one_hot).square().mean(),
    }
    models = {"nll": "mlp", "cross-entropy": "linear", "bce": "logit", "mse": "linear"}
    for loss, value in expected.items():
        setup = Setup.model_validate(
            {"dataset": {"name": "npz", "path": "unused"}, "loss": loss, "model": models[loss]}
        )
        criterion = Network(setup, (5,), 3, CPU).criterion
        torch.testing.assert_close(criterion(output, y).mean(), value)


def test_at_theta_zero_the_norm_contributes_no_gradient() -> None:
    setup = Setup.model_validate({"dataset": {"name": "npz", "path": "unused"}, "l2": 1.0})
    data = image_data((6,), 3)
    zero_D = torch.zeros(Network(setup, data.shape, data.classes, CPU).dimension)
    _, out_KD = compute(setup, data, zero_D)
    _, plain_KD = compute(setup.changed(l2=0.0), data, zero_D)
    assert torch.equal(out_KD, plain_KD)


def test_clip_scales_only_rows_that_are_too_long() -> None:
    rows_KD = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-30.0, 40.0]])
    clip(rows_KD, 5.0)
    torch.testing.assert_close(rows_KD, torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-3.0, 4.0]]))


def test_the_initial_parameters_follow_from_the_seed_and_leave_torchs_random_state_alone() -> None:
    setup = Setup()
    state = torch.random.get_rng_state()
    first, again = (Network(setup, (1, 8, 8), 10, CPU).initial_parameters() for _ in range(2))
    other = Network(setup.changed(seed=2), (1, 8, 8), 10, CPU).initial_parameters()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture(scope="module")
def training_setup() -> tuple[Setup, Data]:
    model = {"name": "torchvision", "architecture": "resnet18", "training": True}
    setup = Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": "unused"},
            "model": model,
            "loss": "cross-entropy",
            "workers": 2,
            "aggregator": "average",
        }
    )
    return setup, image_data((3, 32, 32), 4)


def test_in_training_mode_each_worker_has_batch_statistics_of_its_own(training_setup: tuple[Setup, Data]) -> None:
    setup, data = training_setup
    both = Cohort(setup, range(2), data, CPU)
    alone = Cohort(setup, range(1, 2), data, CPU)
    theta_D = Network(setup, data.shape, data.classes, CPU).initial_parameters()
    out_KD, out_1D = torch.empty(2, both.gradients.network.dimension), torch.empty(1, both.gradients.network.dimension)
    for step in range(2):
        both.step(theta_D, step, out_KD)
        alone.step(theta_D, step, out_1D)
    assert torch.equal(out_KD[1], out_1D[0])
    name = "buffer bn1.running_mean"
    running = both.state()[name]
    assert torch.equal(running[1], alone.state()[name][0])
    assert not torch.equal(running[0], running[1])
    # The first BatchNorm's running mean after one more batch, by its definition (momentum 0.1).
    batch = both.stream.batch(range(2), 2)
    weight = Network(setup, data.shape, data.classes, CPU).parameters(theta_D)["conv1.weight"]
    seen = functional.conv2d(batch.x[: setup.batch_size], weight, stride=2, padding=3).mean((0, 2, 3))
    both.step(theta_D, 2, out_KD)
    torch.testing.assert_close(both.state()[name][0], 0.9 * running[0] + 0.1 * seen, rtol=1e-4, atol=1e-6)


def test_dropout_masks_follow_from_seed_worker_and_step() -> None:
    model = {"name": "empire-cnn", "training": True, "hidden": 8}
    setup = Setup.model_validate(
        {"dataset": {"name": "npz", "path": "unused"}, "model": model, "workers": 2, "aggregator": "average"}
    )
    data = image_data((3, 32, 32), 4)
    theta_D = Network(setup, data.shape, data.classes, CPU).initial_parameters()
    state = torch.random.get_rng_state()
    found = []
    for workers, row in ((range(2), 1), (range(1, 2), 0)):
        cohort = Cohort(setup, workers, data, CPU)
        out_KD = torch.empty(len(workers), cohort.gradients.network.dimension)
        cohort.step(theta_D, 4, out_KD)
        found.append(out_KD[row])
    assert torch.equal(*found)
    assert torch.equal(torch.random.get_rng_state(), state)
    plain = Cohort(setup.changed(model={**model, "training": False}), range(1, 2), data, CPU)
    out_1D = torch.empty(1, plain.gradients.network.dimension)
    plain.step(theta_D, 4, out_1D)
    assert not torch.allclose(out_1D[0], found[0])


@pytest.mark.parametrize(
    ("model", "dataset", "shape"), [("empire-cnn", "cifar10", (3, 32, 32)), ("conv", "mnist", (1, 28, 28))]
)
def test_a_convolutional_chain_gives_each_workers_gradient(model: str, dataset: str, shape: tuple[int, ...]) -> None:
    """As GPUs take it, here on a CPU: layer by layer for all workers, against one worker after the other."""
    setup = Setup.model_validate(
        {
            "dataset": dataset,
            "model": model,
            "steps": 1,
            "workers": 3,
            "batch_size": 4,
            "learning_rate": 0.1,
            "l2": 1e-3,
        }
    )
    network = Network(setup, shape, 10, torch.device("cpu"))
    gradients = Gradients(network, setup)
    assert gradients.chain is None  # on a CPU
    generator = torch.Generator().manual_seed(5)
    batch = Batch(torch.randn(12, *shape, generator=generator), torch.randint(10, (12,), generator=generator))
    expected_KD, found_KD = torch.empty(3, network.dimension), torch.empty(3, network.dimension)
    theta_D = network.initial_parameters()
    expected_K = gradients(theta_D, batch, expected_KD, [0] * 3, [{}] * 3)
    gradients.chain = chain_of(network.module, LAYERS)
    assert gradients.chain is not None
    found_K = gradients(theta_D, batch, found_KD, [0] * 3, [{}] * 3)
    torch.testing.assert_close(found_K, expected_K)
    torch.testing.assert_close(found_KD, expected_KD, rtol=1e-4, atol=1e-6)


def test_convolutional_chains_are_of_plain_layers() -> None:
    convolution = nn.Conv2d(1, 1, 3, padding=1)
    assert chain_of(nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(1)), LAYERS) is not None
    for other in (
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(1, affine=False),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.ConvTranspose2d(1, 1, 3),
    ):
        assert chain_of(nn.Sequential(convolution, other), LAYERS) is None
    for other in (convolution, nn.BatchNorm2d(1, affine=False)):  # which is known elsewhere, parameters or not
        assert chain_of(nn.Sequential(nn.Linear(4, 4), other), DENSE) is None
