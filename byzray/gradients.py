"""The gradients of several workers at once.

Shapes in names: K workers, B examples a batch, D parameters.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from byzray.devices import deterministic_convolutions
from byzray.layers import DENSE, LAYERS, chain_of
from byzray.models._trial import build, trainable
from byzray.randomness import key
from byzray.sampling import Batch
from byzray.setups import Setup

EXAMPLES_AT_ONCE = 2048
"""Of so many examples at most the activations of a convolutional chain are kept on a GPU at a time."""


class Network:
    """A model as a function of the flat vector of its trainable parameters, in the order of `named_parameters`.

    Parameters that require no gradient stay as they were built, and are no coordinates.

    Args:
        setup: what the model and its loss are.
        shape: the shape of one example.
        classes: the number of classes.
        device: where it computes.

    Attributes:
        dimension: D, the number of trainable parameters, tied ones counted once.
        module: the PyTorch module; of its own parameters only the frozen ones are used.
        frozen: whether there are any.
    """

    def __init__(self, setup: Setup, shape: tuple[int, ...], classes: int, device: torch.device) -> None:
        self.model = setup.model
        module = build(setup.model, shape, classes, key(setup.seed, "parameters"))
        trained = trainable(module)
        initial = [parameter.detach().flatten() for parameter in trained.values()]
        self._initial_D = torch.cat(initial)
        self.frozen = len(trained) < len(list(module.parameters()))
        self.module = module.to(device).requires_grad_(False)
        for parameter in trained.values():  # of the module's own, only the shapes are used: a view of one number
            parameter.data = parameter.new_zeros(()).expand(parameter.shape)
        self.device = device
        self.shapes = {name: parameter.shape for name, parameter in trained.items()}
        ends = torch.tensor([0, *(part.numel() for part in initial)]).cumsum(0).tolist()
        self.segments = [slice(*ends) for ends in pairwise(ends)]
        self.dimension: int = ends[-1]
        self.single = setup.model.outputs(classes) == 1
        self.criterion = _criterion(setup.loss, self.single, classes)

    def initial_parameters(self) -> Tensor:
        """The (D,) trainable parameters that PyTorch's default initialisation gives for the setup's seed."""
        return self._initial_D.to(self.device, copy=True)

    def buffers(self) -> dict[str, Tensor]:
        """A fresh copy of the module's buffers (BatchNorm's statistics) as they were initialised."""
        return {name: buffer.clone() for name, buffer in self.module.named_buffers()}

    def parameters(self, points: Tensor) -> dict[str, Tensor]:
        """The named parameters as views of `points`: of their own shapes for (D,), with one dimension before for
        (K, D)."""
        parts = zip(self.shapes.items(), self.segments, strict=True)
        return {name: points[..., segment].unflatten(-1, shape) for (name, shape), segment in parts}

    def __call__(self, theta: Tensor, x: Tensor, buffers: dict[str, Tensor] | None = None) -> Tensor:
        """The network's output at `theta` (D,) for inputs (count, *shape)."""
        return functional_call(self.module, (self.parameters(theta), buffers or {}), (self.laid_out(x),))

    def laid_out(self, x: Tensor) -> Tensor:
        """Examples in the memory format in which the model computes: on a GPU, images of chained models channels last,
        as its convolutions take them."""
        images = self.model.chained and x.is_cuda and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if images else x

    @torch.no_grad()
    def right(self, theta: Tensor, batch: Batch, buffers: dict[str, Tensor] | None = None) -> Tensor:
        """Which examples of a batch are classified correctly at `theta` (D,): (B,) booleans."""
        self.module.eval()
        with deterministic_convolutions():
            output = self(theta, batch.x, buffers)
        predicted = (output.squeeze(1) > 0.5).long() if self.single else output.argmax(dim=1)
        return predicted == batch.y


def _criterion(loss: str, single: bool, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The losses (count,) of examples from a network's output (count, outputs) and int64 labels (count,)."""

    def numeric(y: Tensor) -> Tensor:
        if single:
            return y.float().unsqueeze(1)
        # One-hot, by a comparison: vmap cannot look into functional.one_hot.
        return (y.unsqueeze(1) == torch.arange(classes, device=y.device)).float()

    match loss:
        case "nll":
            return lambda output, y: functional.nll_loss(output, y, reduction="none")
        case "cross-entropy":
            return lambda output, y: functional.cross_entropy(output, y, reduction="none")
        case "bce":
            return lambda output, y: functional.binary_cross_entropy(output, numeric(y), reduction="none").mean(dim=1)
        case _:
            return lambda output, y: functional.mse_loss(output, numeric(y), reduction="none").mean(dim=1)


class Gradients:
    """Loss gradients of K workers, each with its own batch.

    How they are computed follows from the model and the number of workers:

    - One worker: autograd.
    - A model that declares itself `dense` and is (:func:`byzray.layers.chain_of`): one forward and one backward pass
      over the examples of all workers, which leave each layer's inputs and the gradients at its outputs; only their
      product, the gradient of the weights, is taken worker by worker, in one batched product. The operations are those
      of vmap, without its overhead.
    - On a GPU a model that declares itself `chained`, if all workers share their point: the same, where convolutions
      take the gradients of their weights worker after worker.
    - Another model that declares itself `vectorised` (those without convolutions): all workers at once, by vmap.
    - Any other: one worker after the other. On CPUs vmap over a convolution is slower than that. In training mode
      workers have buffers and dropout masks of their own.
    """

    def __init__(self, network: Network, setup: Setup) -> None:
        self.network = network
        self.seed = setup.seed
        self.l1, self.l2 = setup.l1, setup.l2
        self.training = setup.model.training
        self.vectorised = setup.model.vectorised and not self.training
        on_gpu = network.device.type == "cuda"
        # A chain takes its parameters from theta, one layer after the other.
        dense = setup.model.dense and not network.frozen
        self.dense = chain_of(network.module, DENSE) if dense else None
        chained = setup.model.chained and on_gpu and not self.training and not network.frozen
        self.chain = chain_of(network.module, LAYERS) if chained else None

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.network.criterion(functional_call(self.network.module, (parameters, {}), (x,)), y).mean()

    def __call__(
        self, points: Tensor, batch: Batch, out_KD: Tensor, masks: list[int], buffers: list[dict[str, Tensor]]
    ) -> Tensor:
        """Compute gradients into `out_KD`.

        Args:
            points: the point common to all workers (D,), or each worker's own (K, D).
            batch: K*B examples, worker after worker.
            out_KD: where the gradients go.
            masks: for models in training mode, a seed a worker for its dropout masks.
            buffers: for models in training mode, each worker's buffers, updated in place.

        Returns:
            (K,) losses, regularisation included.
        """
        k = len(out_KD)
        x_KB = batch.x.unflatten(0, (k, -1))
        y_KB = batch.y.unflatten(0, (k, -1))
        if self.dense is not None and k > 1:
            losses_K = self._layer_by_layer(points, batch, self.dense, out_KD)
        elif self.chain is not None and k > 1 and points.dim() == 1:
            losses_K = self._in_parts(points, batch, self.chain, out_KD)
        elif self.vectorised and k > 1:
            losses_K = self._all_at_once(points, x_KB, y_KB, out_KD)
        else:
            losses = []
            with deterministic_convolutions():
                for i in range(k):
                    point_D = points if points.dim() == 1 else points[i]
                    losses.append(self._one(point_D, x_KB[i], y_KB[i], out_KD[i], masks[i], buffers[i]))
            losses_K = torch.stack(losses)
        return self._regularise(points, losses_K, out_KD)

    def _layer_by_layer(self, points: Tensor, batch: Batch, chain: list[nn.Module], out_KD: Tensor) -> Tensor:
        self.network.module.eval()
        k = len(out_KD)
        parameters = iter(self.network.parameters(points).values())
        passed: list[tuple[Tensor, Tensor]] = []
        here = batch.x
        for layer in chain:
            if type(layer) in LAYERS:
                inputs = here.detach()
                forward, _ = LAYERS[type(layer)]
                here = forward(layer, here, next(parameters), None if layer.bias is None else next(parameters))
                # Parameters need no gradients here: what is differentiated begins at the first layer's output.
                here = here if here.requires_grad else here.requires_grad_()
                passed.append((inputs, here))
            else:
                here = layer(here)
        losses_K = self.network.criterion(here, batch.y).unflatten(0, (k, -1)).mean(dim=1)
        deltas = torch.autograd.grad(losses_K.sum(), [output for _, output in passed])
        segments = iter(self.network.segments)
        layers = [layer for layer in chain if type(layer) in LAYERS]
        for layer, (inputs, _), delta in zip(layers, passed, deltas, strict=True):
            _, backward = LAYERS[type(layer)]
            weight_K = out_KD[:, next(segments)]
            backward(layer, inputs, delta, weight_K, None if layer.bias is None else out_KD[:, next(segments)])
        return losses_K.detach()

    def _in_parts(self, points: Tensor, batch: Batch, chain: list[nn.Module], out_KD: Tensor) -> Tensor:
        """Layer by layer, for as many workers at once as have EXAMPLES_AT_ONCE."""
        b = len(batch.y) // len(out_KD)
        workers = max(1, EXAMPLES_AT_ONCE // b)
        x = self.network.laid_out(batch.x)
        parts = zip(x.split(workers * b), batch.y.split(workers * b), out_KD.split(workers), strict=True)
        with deterministic_convolutions():
            return torch.cat([self._layer_by_layer(points, Batch(x, y), chain, out_KD) for x, y, out_KD in parts])

    def _all_at_once(self, points: Tensor, x_KB: Tensor, y_KB: Tensor, out_KD: Tensor) -> Tensor:
        self.network.module.eval()
        per_worker = vmap(grad_and_value(self._loss), in_dims=(None if points.dim() == 1 else 0, 0, 0))
        gradients, losses_K = per_worker(self.network.parameters(points), x_KB, y_KB)
        for name, segment in zip(self.network.shapes, self.network.segments, strict=True):
            out_KD[:, segment] = gradients[name].flatten(1)
        return losses_K

    def _one(
        self, point_D: Tensor, x: Tensor, y: Tensor, out_D: Tensor, mask: int, buffers: dict[str, Tensor]
    ) -> Tensor:
        module: nn.Module = self.network.module
        module.train(self.training)
        parameters = {name: value.detach().requires_grad_() for name, value in self.network.parameters(point_D).items()}
        with torch.random.fork_rng(enabled=self.training):
            if self.training:
                torch.manual_seed(mask)
            output = functional_call(module, (parameters, buffers), (self.network.laid_out(x),))
        loss = self.network.criterion(output, y).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        torch.cat([gradient.flatten() for gradient in gradients], out=out_D)
        return loss.detach()

    def _regularise(self, points: Tensor, losses_K: Tensor, out_KD: Tensor) -> Tensor:
        """Add l1*||theta||_1 + l2*||theta||_2 to the losses and its gradient to `out_KD`."""
        if self.l1:
            losses_K = losses_K + self.l1 * points.abs().sum(dim=-1)
            out_KD.add_(points.sign(), alpha=self.l1)
        if self.l2:
            norm = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
            losses_K = losses_K + self.l2 * norm.squeeze(-1)
            # At theta = 0 the norm has no gradient; 0 is the subgradient that autograd takes, too.
            out_KD.addcdiv_(points.expand_as(out_KD), torch.where(norm > 0, norm, 1), value=self.l2)
        return losses_K


def trained_module(setup: Setup, shape: tuple[int, ...], classes: int, theta_D: NDArray[np.float32]) -> nn.Module:
    """The model's module with its trainable parameters at `theta_D`, all else as it was initialised, on the CPU."""
    module = build(setup.model, shape, classes, key(setup.seed, "parameters"))
    parts = trainable(module)
    sizes = [parameter.numel() for parameter in parts.values()]
    with torch.no_grad():
        for parameter, part in zip(parts.values(), torch.from_numpy(theta_D).split(sizes), strict=True):
            parameter.copy_(part.view_as(parameter))
    return module


def clip(gradients_KD: Tensor, largest: float) -> None:
    """Scale rows longer than `largest` down to that norm, in place."""
    norms_K = torch.linalg.vector_norm(gradients_KD, dim=1, keepdim=True)
    if not norms_K.is_cuda and not (norms_K > largest).any():  # where to look is not to wait
        return
    gradients_KD.mul_(torch.where(norms_K > largest, largest / norms_K, 1))
