import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from inspect import getdoc

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from byzray.models import (
    MLP,
    MODELS,
    Convolutional,
    EmpireCNN,
    FullyConnected,
    LeNet,
    Linear,
    Logit,
    Model,
    ResNet18,
    Torchvision,
    TrainingOption,
    WideResNet,
)

SMALL_WRN = WideResNet(depth=10, widen=1)
BATCH_NORM = ResNet18(norm="batch")
RESNET = Torchvision(architecture="resnet18")
MOBILENET = Torchvision(architecture="mobilenet_v3_small")
INCEPTION = Torchvision(architecture="inception_v3")

# Each model with a shape that it takes.
FITTING = [
    (MLP(), (68,)),
    (MLP(hidden=()), (1, 8, 8)),
    (MLP(hidden=(5, 6, 7)), (3, 32, 32)),
    (FullyConnected(), (1, 28, 28)),
    (FullyConnected(), (784,)),
    (Convolutional(), (1, 28, 28)),
    (LeNet(), (1, 28, 28)),
    (LeNet(), (3, 32, 32)),
    (Logit(), (68,)),
    (Linear(), (68,)),
    (EmpireCNN(), (3, 32, 32)),
    (SMALL_WRN, (3, 32, 32)),
    (ResNet18(), (3, 32, 32)),
    (RESNET, (3, 32, 32)),
    (MOBILENET, (3, 32, 32)),
]
MODELS_TRIED = [
    MLP(),
    FullyConnected(),
    Convolutional(),
    LeNet(),
    Logit(),
    Linear(),
    EmpireCNN(),
    SMALL_WRN,
    ResNet18(),
    RESNET,
    INCEPTION,
]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (68,)]


def described(case: object) -> str:
    return getattr(case, "architecture", case.label()) if isinstance(case, Model) else str(case)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def built(model: Model, shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    torch.manual_seed(1)
    return model.build(shape, classes).train(model.training)


# -- Architectures as published


def test_full_has_the_published_parameters() -> None:
    network = FullyConnected().build((1, 28, 28), 10)
    assert count(network) == 79_510
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert list(shapes.items()) == [
        ("f1.weight", (100, 784)),
        ("f1.bias", (100,)),
        ("f2.weight", (10, 100)),
        ("f2.bias", (10,)),
    ]


def test_full_computes_the_published_formula() -> None:
    network = built(FullyConnected(), (1, 28, 28))
    w1, b1, w2, b2 = network.parameters()
    x = torch.randn(5, 1, 28, 28)
    scores = torch.clamp(x.reshape(5, 784) @ w1.T + b1, min=0) @ w2.T + b2
    expected = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    torch.testing.assert_close(network(x), expected)


def test_full_is_a_multilayer_perceptron() -> None:
    full, mlp = built(FullyConnected(), (1, 28, 28)), built(MLP(hidden=(100,)), (1, 28, 28))
    for mine, other in zip(full.parameters(), mlp.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_conv_has_the_published_parameters() -> None:
    network = Convolutional().build((1, 28, 28), 10)
    assert count(network) == 431_080
    assert [tuple(parameter.shape) for parameter in network.parameters()][::2] == [
        (20, 1, 5, 5),
        (50, 20, 5, 5),
        (500, 800),
        (10, 500),
    ]


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 61_706), ((3, 32, 32), 62_006)])
def test_lenet_has_the_published_layers(shape: tuple[int, ...], parameters: int) -> None:
    network = LeNet().build(shape, 10)
    assert count(network) == parameters
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes[::2] == [(6, shape[0], 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    sizes, x = [], torch.zeros(1, *shape)
    for name, layer in network.named_children():
        x = layer(x)
        if name in ("c1", "pool1", "c2", "pool2"):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]


def test_lenet_computes_the_published_formula() -> None:
    network = built(LeNet(), (1, 28, 28))
    c1, d1, c2, d2, w1, b1, w2, b2, w3, b3 = network.parameters()
    x = torch.randn(3, 1, 28, 28)
    y = functional.conv2d(functional.pad(x, (2, 2, 2, 2)), c1, d1).clamp(min=0)
    y = functional.conv2d(y.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)), c2, d2).clamp(min=0)
    y = y.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)).reshape(3, 400)
    scores = ((y @ w1.T + b1).clamp(min=0) @ w2.T + b2).clamp(min=0) @ w3.T + b3
    torch.testing.assert_close(network(x), scores - scores.logsumexp(dim=1, keepdim=True))


@pytest.mark.parametrize(("model", "outputs"), [(Logit(), 1), (Linear(), 1), (MLP(hidden=()), 2)], ids=described)
def test_two_classes(model: Model, outputs: int) -> None:
    assert model.outputs(2) == outputs
    assert count(model.build((68,), 2)) == outputs * 69


def test_logit_is_the_sigmoid_of_linear() -> None:
    x = torch.randn(5, 68)
    torch.testing.assert_close(built(Logit(), (68,))(x), torch.sigmoid(built(Linear(), (68,))(x)))


@pytest.mark.parametrize(("hidden", "classes", "width"), [(None, 10, 128), (None, 100, 256), (32, 100, 32)])
def test_empire_cnn_has_the_published_parameters(hidden: int | None, classes: int, width: int) -> None:
    convolutions = sum(outputs * (9 * inputs + 1) for inputs, outputs in [(3, 64), (64, 64), (64, 128), (128, 128)])
    norms = 2 * (64 + 64 + 128 + 128)
    dense = width * (8192 + 1) + classes * (width + 1)
    network = EmpireCNN(hidden=hidden).build((3, 32, 32), classes)
    assert count(network) == convolutions + norms + dense
    layers = list(dict.fromkeys(name.partition(".")[0] for name, _ in network.named_parameters()))
    assert layers == ["c1", "b1", "c2", "b2", "c3", "b3", "c4", "b4", "f1", "f2"]


def test_empire_cnn_layers() -> None:
    block = [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2 + [nn.MaxPool2d, nn.Dropout]
    dense = [nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.LogSoftmax]
    network = EmpireCNN().build((3, 32, 32), 10)
    assert [type(layer) for layer in network.children()] == block + block + dense
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.25}


def test_wrn_28_10_parameters() -> None:
    with torch.device("meta"):
        network = WideResNet().build((3, 32, 32), 10)
    biases = sum(layer.bias.numel() for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert biases == 16 + (8 + 1) * (160 + 320 + 640)
    assert count(network) - biases == 36_479_194  # as in its paper, whose convolutions have no bias
    assert count(network) == 36_489_290


def test_wide_resnet_layers() -> None:
    network = SMALL_WRN.build((3, 32, 32), 10)
    layers = [name.removesuffix(".weight") for name, _ in network.named_parameters() if name.endswith(".weight")]
    block = ["bn1", "conv1", "bn2", "conv2"]
    projected = [f"layer{group}.0.{layer}" for group in (2, 3) for layer in [*block, "shortcut"]]
    assert layers == ["conv1", *(f"layer1.0.{layer}" for layer in block), *projected, "bn1", "linear"]
    x = network.conv1(torch.zeros(1, 3, 32, 32))
    for group, size in (("layer1", 32), ("layer2", 16), ("layer3", 8)):
        x = network.get_submodule(group)(x)
        assert x.shape[2:] == (size, size)


def resnet18_by_its_table(x: Tensor, parameters: Iterator[Tensor], groups: int | None, training: bool) -> Tensor:
    """The scores of ResNet-18 for 32x32 images, whose parameters come in the order of the layers.

    Without `groups` it normalises over the batch in training mode, else by the initial statistics.
    """

    def normalised(x: Tensor) -> Tensor:
        weight, bias = (next(parameters)[:, None, None] for _ in range(2))
        if groups is None:
            mean, variance = torch.zeros(1), torch.ones(1)
            if training:
                mean = x.mean(dim=(0, 2, 3), keepdim=True)
                variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
            return (x - mean) / (variance + 1e-5).sqrt() * weight + bias
        grouped = x.reshape(len(x), groups, -1)
        mean = grouped.mean(dim=2, keepdim=True)
        variance = (grouped - mean).square().mean(dim=2, keepdim=True)
        return ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape) * weight + bias

    x = normalised(functional.conv2d(x, next(parameters), padding=1)).clamp(min=0)
    for channels in (64, 128, 256, 512):
        for place in (1, 2):
            stride = 2 if place == 1 and channels > 64 else 1
            y = normalised(functional.conv2d(x, next(parameters), stride=stride, padding=1)).clamp(min=0)
            y = normalised(functional.conv2d(y, next(parameters), padding=1))
            assert y.shape[1] == channels
            x = x if stride == 1 else normalised(functional.conv2d(x, next(parameters), stride=2))
            x = (x + y).clamp(min=0)
    assert x.shape[1:] == (512, 4, 4)
    return x.mean(dim=(2, 3)) @ next(parameters).T + next(parameters)


@pytest.mark.parametrize(
    ("model", "groups"),
    [(ResNet18(), 2), (ResNet18(groups=32), 32), (BATCH_NORM, None), (ResNet18(norm="batch", training=True), None)],
)
def test_resnet18_computes_what_its_table_says(model: ResNet18, groups: int | None) -> None:
    network = built(model, (3, 32, 32))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:  # of the normalisations they are all 1 or 0
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        x = torch.randn(2, 3, 32, 32, generator=generator)
        parameters = iter(network.parameters())
        expected = resnet18_by_its_table(x, parameters, groups, model.training)
        assert next(parameters, None) is None
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_resnet18_parameters() -> None:
    with torch.device("meta"):
        networks = [model.build((3, 32, 32), 10) for model in (BATCH_NORM, ResNet18(), ResNet18(groups=64))]
    assert [count(network) for network in networks] == [11_173_962] * 3
    norms = [{type(layer) for layer in network.modules() if "Norm" in type(layer).__name__} for network in networks]
    assert norms == [{nn.BatchNorm2d}, {nn.GroupNorm}, {nn.GroupNorm}]
    groups = [
        {layer.num_groups for layer in network.modules() if isinstance(layer, nn.GroupNorm)} for network in networks
    ]
    assert groups == [set(), {2}, {64}]
    assert not any(getattr(layer, "inplace", False) for network in networks for layer in network.modules())


def test_resnet18_with_group_norm_treats_every_example_by_itself() -> None:
    network = built(ResNet18(training=True), (3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)
    assert not list(network.buffers())


# -- What the simulation relies on


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(("model", "shape"), FITTING, ids=described)
def test_outputs(model: Model, shape: tuple[int, ...], classes: int) -> None:
    assert model.check(shape, classes) is None
    x = torch.randn(3, *shape)
    before = x.clone()
    with torch.no_grad():
        output = built(model, shape, classes)(x)
    assert output.shape == (3, model.outputs(classes))
    assert output.dtype == torch.float32
    assert torch.equal(x, before)
    if model.output == "log-probabilities":
        torch.testing.assert_close(output.exp().sum(dim=1), torch.ones(3))
    elif model.output == "probabilities":
        assert ((output >= 0) & (output <= 1)).all()
    else:
        assert output.min() < 0


@pytest.mark.parametrize(("model", "shape"), FITTING, ids=described)
def test_every_parameter_gets_a_gradient(model: Model, shape: tuple[int, ...]) -> None:
    network = built(model, shape)
    network(torch.randn(4, *shape))[:, 0].sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("model", "shape"), FITTING, ids=described)
def test_initialisation_depends_on_the_seed_alone(model: Model, shape: tuple[int, ...]) -> None:
    first, second = built(model, shape), built(model, shape)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize("model", [MLP(), FullyConnected(), Logit(), Linear()], ids=described)
def test_gradients_of_many_batches_at_once(model: Model) -> None:
    network = built(model, (1, 28, 28))
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    batches = torch.randn(3, 4, 1, 28, 28)

    def loss(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return functional_call(network, parameters, (batch,))[:, 0].mean()

    at_once = vmap(grad(loss), in_dims=(None, 0))(parameters, batches)
    for worker, batch in enumerate(batches):
        for name, gradient in grad(loss)(parameters, batch).items():
            torch.testing.assert_close(at_once[name][worker], gradient)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", MODELS_TRIED, ids=described)
def test_check_accepts_exactly_what_runs(model: Model, shape: tuple[int, ...]) -> None:
    problem = model.check(shape, 10)
    with torch.device("meta"):  # shapes alone: nothing is computed
        network, x = built(model, shape), torch.empty(2, *shape)
    if problem is None:
        assert network(x).shape == (2, 10)
    else:
        assert problem.startswith("needs ")
        assert f"got {math.prod(shape) if isinstance(model, FullyConnected) else shape}" in problem
        assert "\n" not in problem
        with pytest.raises((RuntimeError, ValueError)):
            network(x)


def test_lenet_refuses_all_but_two_shapes() -> None:
    for shape in ((1, 32, 32), (3, 28, 28), (784,)):
        expected = f"needs examples of shape (1, 28, 28) or (3, 32, 32); got {shape}"
        assert LeNet().check(shape, 10) == expected


def test_networks_for_cifar_refuse_larger_images() -> None:
    for model in (EmpireCNN(), SMALL_WRN, ResNet18(), BATCH_NORM):
        assert model.check((3, 64, 64), 10) == "needs examples of shape (3, 32, 32); got (3, 64, 64)"


# -- Training and evaluation mode


@pytest.mark.parametrize("model", [MLP(), FullyConnected(), Convolutional(), LeNet(), Logit(), Linear()], ids=described)
def test_models_without_modes_have_no_such_option(model: Model) -> None:
    assert model.training is False
    assert "training" not in model.describe()
    network = model.build((1, 28, 28), 10)
    assert not any(isinstance(layer, nn.Dropout | nn.BatchNorm2d) for layer in network.modules())
    with pytest.raises(ValidationError, match=r"training\n  Extra inputs are not permitted"):
        MODELS.parse({"name": model.name, "training": True})


@pytest.mark.parametrize("model", [EmpireCNN(), SMALL_WRN, BATCH_NORM, MOBILENET], ids=described)
def test_training_mode_is_an_option(model: Model) -> None:
    assert model.training is False
    assert model.describe()["training"] is False
    training = MODELS.parse({**model.describe(), "training": True})
    assert training.training is True
    x = torch.randn(8, 3, 32, 32)
    assert not torch.allclose(built(model, (3, 32, 32))(x), built(training, (3, 32, 32))(x))


def test_evaluation_mode_applies_the_initial_statistics() -> None:
    network = built(EmpireCNN(), (3, 32, 32))
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(network.b1(x), x / math.sqrt(1 + 1e-5))


def test_a_model_of_ones_own_may_have_the_option() -> None:
    class Mine(TrainingOption, Model):
        def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(math.prod(shape), classes))

    assert [Mine().training, Mine(training=True).training] == [False, True]


# -- Options


OPTIONS = [*(case[0] for case in FITTING), BATCH_NORM, ResNet18(groups=32)]


@pytest.mark.parametrize("model", OPTIONS, ids=described)
def test_options_survive_a_setup_file(model: Model) -> None:
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in model.describe().items()}
    assert MODELS.parse(options) == model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mlp", "hidden": [True]}, r"hidden\.0\n  Input should be a valid integer"),
        ({"name": "mlp", "hidden": [3.0]}, r"hidden\.0\n  Input should be a valid integer"),
        ({"name": "mlp", "hidden": [8, "3"]}, r"hidden\.1\n  Input should be a valid integer"),
        ({"name": "mlp", "hidden": [0]}, r"hidden\.0\n  Input should be greater than 0"),
        ({"name": "mlp", "hidden": 64}, r"hidden\n  Input should be a valid tuple"),
        ({"name": "full", "hidden": 64}, r"hidden\n  Extra inputs are not permitted"),
        ({"name": "empire-cnn", "hidden": 0}, r"hidden\n  Input should be greater than 0"),
        ({"name": "empire-cnn", "training": 1}, r"training\n  Input should be a valid boolean"),
        ({"name": "wide-resnet", "depth": 27}, r"expected 6k \+ 4 \(10, 16, 22, 28, \.\.\.\)"),
        ({"name": "wide-resnet", "depth": 4}, r"expected 6k \+ 4 "),
        ({"name": "wide-resnet", "widen": 0}, r"widen\n  Input should be greater than 0"),
        ({"name": "wide-resnet", "dropout": 1.0}, r"dropout\n  Input should be less than 1"),
        ({"name": "lenet", "training": True}, r"training\n  Extra inputs are not permitted"),
        ({"name": "resnet18", "norm": "layer"}, r"norm\n  Input should be 'group' or 'batch'"),
        ({"name": "resnet18", "groups": 0}, r"groups\n  Input should be greater than 0"),
        (
            {"name": "resnet18", "groups": 3},
            r"groups\n  Value error, expected a divisor of 64 \(1, 2, 4, 8, 16, 32, 64\)",
        ),
        ({"name": "resnet18", "groups": 128}, r"expected a divisor of 64"),
        ({"name": "resnet18", "groups": 2.0}, r"groups\n  Input should be a valid integer"),
        ({"name": "resnet18", "norm": "batch", "groups": 2}, r"expected no 'groups', which belongs to 'norm: group'"),
        ({"name": "resnet18", "training": 1}, r"training\n  Input should be a valid boolean"),
        ({"name": "torchvision"}, r"architecture\n  Field required"),
        ({"name": "torchvision", "architecture": "resnet180"}, "no classifier 'resnet180': did you mean 'resnet18'"),
        ({"name": "torchvision", "architecture": "ResNet50"}, "no classifier 'ResNet50': did you mean 'resnet50'"),
        ({"name": "torchvision", "architecture": "zzz"}, "no classifier 'zzz': expected one of alexnet, "),
        ({"name": "torchvision", "architecture": "fcn_resnet50"}, "no classifier 'fcn_resnet50'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MODELS.parse(options)


def test_every_model_has_a_description_of_one_line() -> None:
    lines = [(getdoc(model) or "").splitlines()[0] for model in MODELS.classes.values()]
    assert all(len(line) < 120 and line.endswith(".") for line in lines)
    assert len(set(lines)) == len(lines) == 10


# -- torchvision


def test_torchvision_is_imported_only_when_used() -> None:
    code = "import sys, byzray.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("architecture", "size"), [("googlenet", 32), ("inception_v3", 75)])
def test_networks_with_auxiliary_outputs_return_scores_only(architecture: str, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = built(Torchvision(architecture=architecture), (3, size, size))
    assert not any("aux" in name.lower() for name, _ in network.named_parameters())
    assert network.transform_input is False
    for training in (False, True):
        assert network.train(training)(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("architecture", "problem"),
    [
        ("inception_v3", "needs images of a size that inception_v3 can take; got (3, 32, 32): "),
        ("vit_b_16", "needs images of a size that vit_b_16 can take; got (3, 32, 32): Wrong image height"),
        ("regnet_y_128gf", None),
        ("swin_t", None),
    ],
)
def test_check_of_a_size_costs_neither_memory_nor_random_numbers(architecture: str, problem: str | None) -> None:
    before = torch.get_rng_state()
    found = Torchvision(architecture=architecture).check((3, 32, 32), 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert found is None if problem is None else (found or "").startswith(problem)
