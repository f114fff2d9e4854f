"""Networks of the user's own: what a module says about itself is kept to, or refused before anything runs."""

import math
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from byzray import Setup, SetupError, simulate
from byzray.data import load_data
from byzray.models import Model, Output, Torchvision, TrainingOption
from byzray.process_state import RandomStates
from byzray.setups.checks import mistakes_on
from byzray.simulation import LocalSimulation


def layers(*more: nn.Module, inputs: int = 64, outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs), *more)


class Good(Model):
    """The model that the others are variations of."""

    def network(self) -> nn.Module:
        return layers(nn.LogSoftmax(dim=1))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return self.network()


class Through(nn.Module):
    """A network with something done to its output, given as a function."""

    def __init__(self, change: Any, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = layers(nn.LogSoftmax(dim=1)) if inner is None else inner
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


def model(make: Any, **attributes: Any) -> Model:
    """A model of a class of its own, of which an instance is not asked again what another one was."""
    return type("Own", (Good,), {"network": lambda self: make(), **attributes})()


def own(made: Model, **fields: Any) -> Setup:
    """Digits have shape (1, 8, 8)."""
    return Setup.model_validate({"dataset": "digits", "steps": 10, "workers": 3, "model": made, **fields})


# -- Frozen and tied parameters


class Frozen(Good):
    """A frozen layer under a trained one."""

    def network(self) -> nn.Module:
        network = layers(nn.LogSoftmax(dim=1))
        network[1].requires_grad_(False)
        return network


class FrozenAtOnce(Frozen):
    vectorised: ClassVar[bool] = True


class FrozenDense(FrozenAtOnce):
    dense: ClassVar[bool] = True


@pytest.mark.parametrize("made", [Frozen(), FrozenAtOnce(), FrozenDense()], ids=lambda made: made.label())
def test_frozen_parameters_stay_as_built(made: Model) -> None:
    setup = own(made, aggregator="average", momentum={"placement": "update"}, learning_rate=0.5)
    simulation = LocalSimulation(setup, load_data(setup))
    network = simulation.server.network
    assert network.dimension == 8 * 10 + 10  # those of the last layer alone
    assert list(network.shapes) == ["3.weight", "3.bias"]
    body = {name: value.clone() for name, value in network.module.named_parameters() if name.startswith("1.")}
    batch = simulation.cohort.stream.batch(range(3), 0)
    start_D = simulation.parameters()
    simulation.advance(1)

    # One step by hand: the mean gradient of the last layer, given what the frozen one passes on.
    hidden = functional.relu(batch.x.flatten(1) @ body["1.weight"].T + body["1.bias"])
    theta_D = torch.from_numpy(start_D).requires_grad_()
    scores = hidden @ theta_D[:80].reshape(10, 8).T + theta_D[80:]
    (gradient_D,) = torch.autograd.grad(functional.cross_entropy(scores, batch.y), theta_D)
    np.testing.assert_allclose(simulation.parameters(), start_D - 0.5 * gradient_D.numpy(), rtol=1e-4, atol=1e-6)

    simulation.advance(10)
    for cohort_or_server in (simulation.cohort.gradients.network, simulation.server.network):
        for name, value in cohort_or_server.module.named_parameters():
            if name in body:
                assert torch.equal(value, body[name])
    data, end_D = load_data(setup), torch.from_numpy(simulation.parameters())
    x = torch.from_numpy(data.x_test).flatten(1) * data.scale
    hidden = functional.relu(x @ body["1.weight"].T + body["1.bias"])
    predicted = (hidden @ end_D[:80].reshape(10, 8).T + end_D[80:]).argmax(dim=1)
    assert simulation.evaluate() == np.mean(predicted.numpy() == data.y_test)


def test_a_run_with_frozen_parameters_is_continued_with_the_same_ones(tmp_path: Path) -> None:
    setup = own(Frozen())
    whole = simulate(setup)
    with pytest.raises(Exception, match="stopped at step"):
        simulate(setup, output=tmp_path, progress=lambda update: update.step >= 1)
    parts = simulate(setup, output=tmp_path, resume=True)
    assert np.array_equal(whole.parameters, parts.parameters)
    assert whole.evaluations.equals(parts.evaluations)


@pytest.mark.parametrize("dense", [False, True])
def test_tied_parameters_are_one_set_of_coordinates(dense: bool) -> None:
    def network() -> nn.Module:
        made = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
        )
        made[3].weight = made[1].weight
        return nn.Sequential(made, nn.LogSoftmax(dim=1))

    setup = own(model(network, dense=dense, vectorised=dense))
    simulation = LocalSimulation(setup, load_data(setup))
    assert simulation.server.network.dimension == 64 * 64 + 64 + 64 + 650
    theta_D, batch = simulation.server.theta_D.clone(), simulation.cohort.stream.batch(range(3), 0)
    simulation.advance(1)
    first_D = simulation.server.trained_TD[0]
    weight = theta_D[:4096].reshape(64, 64).requires_grad_()
    b1, b2, w3, b3 = theta_D[4096:4160], theta_D[4160:4224], theta_D[4224:4864].reshape(10, 64), theta_D[4864:]
    hidden = torch.tanh(torch.tanh(batch.x[:4].flatten(1) @ weight.T + b1) @ weight.T + b2)
    (expected,) = torch.autograd.grad(functional.cross_entropy(hidden @ w3.T + b3, batch.y[:4]), weight)
    torch.testing.assert_close(first_D[:4096], expected.flatten(), rtol=1e-4, atol=1e-6)


# -- What is refused


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10), nn.LogSoftmax(dim=1))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return layers(nn.LogSoftmax(dim=1))


def frozen_through_and_through() -> nn.Module:
    return layers(nn.LogSoftmax(dim=1)).requires_grad_(False)


def words(sparse: bool) -> nn.Module:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(17, 2, sparse=sparse), nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x.flatten(1).long()).flatten(1)).log_softmax(dim=1)

    return Words()


def with_item() -> nn.Module:
    return Through(lambda output: output if output.sum().item() < 1 else 2 * output)


SEVERAL = 'end the network with nn.LogSoftmax(dim=1), or let `output` return "scores" and set loss: cross-entropy'
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing to train": (lambda: nn.LogSoftmax(dim=1), "expected a network with parameters to train, got none"),
    "all frozen": (frozen_through_and_through, "got none that requires a gradient"),
    "half": (lambda: layers().half(), "expected parameters of torch.float32, got 1.weight of torch.float16"),
    "double": (lambda: layers().double(), "expected parameters of torch.float32, got 1.weight of torch.float64"),
    "lazy": (lazy, "expected initialised parameters, got a lazy one, 1.weight: state its size in build"),
    "no values": (on_meta, "expected parameters with values, got 1.weight on the device meta"),
    "a tuple": (lambda: Through(lambda y: (y, y)), "expected a network that returns one tensor, got tuple"),
    "a dictionary": (lambda: Through(lambda y: {"out": y}), "expected a network that returns one tensor, got dict"),
    "too few": (lambda: layers(outputs=5), "expected outputs of shape (2, 10) for 2 examples, got (2, 5)"),
    "too many": (lambda: layers(outputs=12), "expected outputs of shape (2, 10) for 2 examples, got (2, 12)"),
    "one a batch": (lambda: Through(lambda y: y[:1]), "expected outputs of shape (2, 10) for 2 examples, got (1, 10)"),
    "integers": (lambda: Through(lambda y: y.long()), "expected outputs of torch.float32, got torch.int64"),
    "no gradient": (
        lambda: Through(lambda y: y.detach()),
        "expected outputs that follow from its trainable parameters",
    ),
    "raw scores": (layers, "expected log-probabilities, as loss is nll, got outputs whose log-sum-exp is "),
    "advice": (layers, SEVERAL),
    "other inputs": (lambda: layers(inputs=63), "its network fails on examples of shape (1, 8, 8): RuntimeError: "),
    "a type error": (lambda: nn.Linear("64", 10), "its build fails for shape (1, 8, 8) and 10 classes: TypeError"),  # type: ignore[arg-type]
    "a function": (lambda: torch.relu, "expected that its build returns a torch.nn.Module, got builtin_function"),
    "sparse gradients": (lambda: words(sparse=True), "expected dense gradients, got sparse ones"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_trained_is_refused_by_the_check_of_the_setup(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValidationError) as refusal:
        own(model(make))
    (mistake,) = refusal.value.errors()
    assert mistake["loc"] == ("model",)
    assert mistake["msg"].startswith("got {'name': ")
    assert message in mistake["msg"]


def test_a_network_that_vmap_cannot_take_is_refused_where_it_calls_itself_vectorised() -> None:
    with pytest.raises(ValidationError, match="its network fails in vectorised mode: RuntimeError: vmap"):
        own(model(with_item, vectorised=True))
    assert simulate(own(model(with_item), steps=2)).parameters.size


def test_raw_scores_are_no_probabilities() -> None:
    class Probable(Good):
        @property
        def output(self) -> Output:
            return "probabilities"

        def network(self) -> nn.Module:
            return layers()

    with pytest.raises(ValidationError, match=r"expected probabilities, as loss is bce, got an output of "):
        own(Probable(), loss="bce")


@pytest.mark.parametrize("answer", ["True", "1 / 0"])
def test_a_check_that_answers_otherwise_is_a_mistake_of_its_class(answer: str) -> None:
    class Checked(Good):
        def check(self, shape: tuple[int, ...], classes: int) -> str | None:
            return eval(answer)

    expected = {"True": "expected that its check returns a text or None, got True", "1 / 0": "its check fails: Zero"}
    with pytest.raises(ValidationError, match=expected[answer]):
        own(Checked())


# -- What is not


def in_bfloat16() -> nn.Module:
    return Through(lambda y: y.bfloat16().log_softmax(dim=1).float(), layers())


def with_norm() -> nn.Module:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layers(nn.LogSoftmax(dim=1))

        def forward(self, x: Tensor) -> Tensor:
            norms = x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            if (norms == 0).any():
                raise ValueError("an empty image")
            return self.inner(x / norms)

    return Normed()


def with_frozen_table() -> nn.Module:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((64,), 2, dtype=torch.int8), requires_grad=False)
            self.inner = layers(nn.LogSoftmax(dim=1))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.flatten(1) * self.scale.float())

    return Scaled()


def weight_normed() -> nn.Module:
    made = layers(nn.LogSoftmax(dim=1))
    nn.utils.parametrizations.weight_norm(made[1])
    return made


@pytest.mark.parametrize(
    "make", [in_bfloat16, with_norm, with_frozen_table, weight_normed, lambda: words(sparse=False)]
)
def test_unusual_networks_that_can_be_trained_are_trained(make: Any) -> None:
    result = simulate(own(model(make), steps=3))
    assert np.isfinite(result.parameters).all()
    assert np.isfinite(result.metrics["Average loss"]).all()


def test_a_network_is_tried_once_and_leaves_the_random_states_alone() -> None:
    built = []

    class Counted(Good):
        width: int = 1

        def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
            built.append(self.width)
            np.random.rand()  # noqa: NPY002
            random.random()
            return layers(nn.LogSoftmax(dim=1))

    before = RandomStates.now()
    for seed in range(5):
        own(Counted(), seed=seed)
    own(Counted(width=2))
    own(Counted(), loss="cross-entropy")
    assert built == [1, 2, 1]
    assert before.moved(RandomStates.now()) == []


def test_whatever_generator_a_network_draws_from_its_values_follow_from_the_seed() -> None:
    def from_numpy() -> nn.Module:
        made = layers(nn.LogSoftmax(dim=1))
        nn.init.constant_(made[1].bias, random.random())
        made[1].weight.data.copy_(torch.from_numpy(np.random.normal(size=(8, 64))))  # noqa: NPY002
        return made

    made = model(from_numpy)
    first, again = (simulate(own(made, steps=2)).parameters for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, simulate(own(made, steps=2, seed=2)).parameters)


# -- A batch of one


class Normalised(TrainingOption, Good):
    def network(self) -> nn.Module:
        normalised = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
        return nn.Sequential(normalised, nn.LogSoftmax(dim=1))


class WithoutStatistics(Good):
    def network(self) -> nn.Module:
        norm = nn.BatchNorm1d(8, track_running_stats=False)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), norm, nn.Linear(8, 10), nn.LogSoftmax(dim=1))


@pytest.mark.parametrize("made", [Normalised(training=True), WithoutStatistics()])
def test_a_batch_of_one_that_batchnorm_cannot_take_is_a_mistake_of_the_setup(made: Model) -> None:
    with pytest.raises(ValidationError) as refusal:
        own(made, batch_size=1)
    (mistake,) = refusal.value.errors()
    assert mistake["loc"] == ("batch_size",)
    expected = "got 1, expected at least 2, as the network fails on a single example: ValueError: Expected more than 1"
    assert mistake["msg"].startswith(expected)
    assert simulate(own(made, steps=1, batch_size=2)).parameters.size


def test_in_evaluation_mode_batchnorm_takes_a_batch_of_one() -> None:
    assert simulate(own(Normalised(), steps=1, batch_size=1)).parameters.size


@pytest.mark.parametrize(("size", "fits"), [(32, False), (64, True)])
def test_batchnorm_in_networks_of_torchvision(size: int, fits: bool) -> None:
    made = Torchvision(architecture="resnet18", training=True)
    fields = {"dataset": {"name": "npz", "path": "x.npz"}, "loss": "cross-entropy", "batch_size": 1, "workers": 3}
    before = RandomStates.now()
    found = mistakes_on(Setup.model_validate({**fields, "model": made}), (3, size, size), 10)
    assert before.moved(RandomStates.now()) == []
    assert len(found) == (not fits)
    assert fits or found[0].startswith(
        "batch_size: got 1, expected at least 2, as the network fails on a single example"
    )


def test_what_the_data_alone_tell_is_told_before_a_run_begins(small_data: Path, tmp_path: Path) -> None:
    """A data set in a file has a shape only when it was read."""
    made = model(lambda: layers(inputs=5, outputs=2))
    setup = own(made, dataset={"name": "npz", "path": str(small_data)})
    with pytest.raises(SetupError, match=r"model: got .* expected log-probabilities, as loss is nll"):
        simulate(setup, output=tmp_path)
    assert not list(tmp_path.iterdir())
    assert math.isfinite(
        simulate(setup.changed(model=model(lambda: layers(nn.LogSoftmax(1), inputs=5, outputs=2))))
        .metrics["Average loss"]
        .iloc[-1]
    )
