"""A fresh network tried on two examples, before anything is computed with it: is it what its model says?

The networks of byzray are, with one exception: with a batch of one example BatchNorm may see a single value a channel,
which has no variance. That depends on the size of the images.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from byzray.models._base import Model
from byzray.models._without_memory import WithoutMemory
from byzray.process_state import RandomStates, own_settings, seeded

# How far the log-sum-exp of log-probabilities may be from 0, in bfloat16 say.
ROUNDING = 0.05


class Problem(NamedTuple):
    """Why a network cannot be trained as a setup says: the field that is wrong, and what was expected."""

    field: str
    message: str


class _Unfit(Exception):
    """The network is not what its model says."""


_known: dict[tuple[object, ...], Problem | None] = {}


def build(model: Model, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A new network. Its values follow from the seed (63 bits), whichever global random generator they come from."""
    with own_settings(), seeded(seed):
        return model.build(shape, classes)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, tied ones once; those that require no gradient stay as built."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def problem(model: Model, shape: tuple[int, ...], classes: int, loss: str, batch_size: int) -> Problem | None:
    """What is wrong with a fresh network; None if nothing is. Each kind is tried once a process.

    Args:
        model: what builds it, and accepts such data.
        shape: of one example.
        classes: the number of classes.
        loss: what is minimised.
        batch_size: examples a worker draws for one gradient.
    """
    single = batch_size == 1
    if model.is_builtin() and not (model.training and single):
        return None
    asked = (type(model), json.dumps(model.describe(), sort_keys=True), shape, classes, loss, single)
    if asked not in _known:
        with own_settings(), seeded(0):
            try:
                way = _single_example_without_memory if model.is_builtin() else _try
                _known[asked] = way(model, shape, classes, loss, single)
            except _Unfit as unfit:
                _known[asked] = Problem("model", str(unfit))
    return _known[asked]


def _single_example_without_memory(
    model: Model, shape: tuple[int, ...], classes: int, loss: str, single: bool
) -> Problem | None:
    with WithoutMemory():
        module = model.build(shape, classes)
    module = module.to("meta").train()
    return _single_example(lambda size: module(torch.empty(size, *shape, device="meta")))


def _single_example(output: Callable[[int], object]) -> Problem | None:
    """The problem of a batch of one, where one of two has none."""
    output(2)
    try:
        output(1)
    except Exception as error:  # networks fail in ways of their own
        return Problem("batch_size", f"expected at least 2, as the network fails on a single example: {_said(error)}")
    return None


def _try(model: Model, shape: tuple[int, ...], classes: int, loss: str, single: bool) -> Problem | None:
    module = _built(model, shape, classes)
    parameters = _checked_parameters(module)
    outputs = model.outputs(classes)
    # Some networks fail on zeros (they divide by a norm), others on negative values (they look words up).
    passed: list[Tensor] = []
    failures: list[Exception] = []
    for x in (torch.zeros(2, *shape), 3 * torch.randn(2, *shape)):
        before = RandomStates.now()
        try:
            found = _output(module.eval(), parameters, x)
        except Exception as error:  # the user's code may raise anything
            failures.append(error)
        else:
            if drawn := before.moved(RandomStates.now()):
                raise _Unfit(f"expected a network without randomness in evaluation mode, got draws from {drawn[0]}")
            _check_values(_checked_output(found, outputs), loss)
            passed.append(x)
    if not passed:
        raise _Unfit(f"its network fails on examples of shape {shape}: {_said(failures[0])}") from failures[0]
    x = passed[0]
    module.train(model.training)
    before = RandomStates.now()
    try:
        mode = "training" if model.training else "evaluation"
        found = _checked_output(_output(module, parameters, x), outputs)
        gradients = torch.autograd.grad(found.sum(), list(parameters.values()), allow_unused=True)
        if model.vectorised and not model.training:
            mode = "vectorised"
            vmap(lambda one: _output(module, parameters, one))(x[:, None])
    except _Unfit:
        raise
    except Exception as error:
        raise _Unfit(f"its network fails in {mode} mode: {_said(error)}") from error
    if drawn := [name for name in before.moved(RandomStates.now()) if name != "PyTorch"]:
        raise _Unfit(f"expected a network that draws from PyTorch alone, which is seeded, got draws from {drawn[0]}")
    if any(gradient is not None and gradient.layout != torch.strided for gradient in gradients):
        raise _Unfit("expected dense gradients, got sparse ones, see the option `sparse` of nn.Embedding")
    return _single_example(lambda size: _output(module, parameters, x[:size])) if single else None


def _built(model: Model, shape: tuple[int, ...], classes: int) -> nn.Module:
    try:
        module = model.build(shape, classes)
    except Exception as error:  # the user's code may raise anything
        raise _Unfit(f"its build fails for shape {shape} and {classes} classes: {_said(error)}") from error
    if not isinstance(module, nn.Module):
        raise _Unfit(f"expected that its build returns a torch.nn.Module, got {type(module).__name__}")
    return module


def _checked_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters as leaves that functional_call takes."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise _Unfit(f"expected initialised parameters, got a lazy one, {name}: state its size in build")
        if value.is_meta:
            raise _Unfit(f"expected parameters with values, got {name} on the device meta")
    parameters = trainable(module)
    if not parameters:
        frozen = "none that requires a gradient" if list(module.parameters()) else "none"
        raise _Unfit(f"expected a network with parameters to train, got {frozen}")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise _Unfit(f"expected parameters of torch.float32, got {name} of {parameter.dtype}")
    module.to("cpu")
    return {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}


def _output(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> object:
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return functional_call(module, (parameters, buffers), (x.clone(),))


def _checked_output(found: object, outputs: int) -> Tensor:
    if not isinstance(found, Tensor):
        raise _Unfit(f"expected a network that returns one tensor, got {type(found).__name__}")
    if found.shape != (2, outputs):
        raise _Unfit(f"expected outputs of shape (2, {outputs}) for 2 examples, got {tuple(found.shape)}")
    if not found.is_floating_point():
        raise _Unfit(f"expected outputs of torch.float32, got {found.dtype}")
    if not found.requires_grad:
        raise _Unfit("expected outputs that follow from its trainable parameters, got ones without a gradient")
    return found


def _check_values(output: Tensor, loss: str) -> None:
    """Whether outputs are what the loss takes them for; non-finite outputs show nothing."""
    if loss == "nll":
        sums = output.double().logsumexp(dim=1)
        wrong = sums[sums.isfinite() & (sums.abs() > ROUNDING)]
        if len(wrong):
            raise _Unfit(
                f"expected log-probabilities, as loss is nll, got outputs whose log-sum-exp is {wrong[0]:.3g}, not 0: "
                'end the network with nn.LogSoftmax(dim=1), or let `output` return "scores" and set loss: cross-entropy'
            )
    elif loss == "bce":
        wrong = output[(output < 0) | (output > 1)]
        if len(wrong):
            raise _Unfit(
                f"expected probabilities, as loss is bce, got an output of {wrong[0]:.3g}: end with nn.Sigmoid()"
            )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".removesuffix(": ")
