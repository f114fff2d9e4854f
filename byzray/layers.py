"""The layers of a chain: what they compute for many workers at once, and the gradients of their parameters, worker by
worker.

Shapes in names: K workers, B examples a batch, C channels, I inputs, O outputs of a dense layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from byzray.parallel import fused

# A layer's weight and bias, of all workers or one of each, and its inputs (K*B, ...) to its outputs.
Forward = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]

# Given a layer, its inputs and the gradients at its outputs, computes each worker's into a weight's (K, size) and a
# bias's (K, size) part of the gradients, if the layer has a bias.
Backward = Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], None]


def linear(layer: nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A Linear layer; `weight` is that of all workers, (O, I), or one of each, (K, O, I), `bias` likewise."""
    if weight.dim() == 2:
        output = x @ weight.mT
        return output if bias is None else output + bias
    output_KBO = torch.bmm(x.reshape(len(weight), -1, x.shape[-1]), weight.mT)
    if bias is not None:
        output_KBO = output_KBO + bias.unsqueeze(1)
    return output_KBO.reshape(*x.shape[:-1], -1)


def linear_gradients(layer: nn.Linear, inputs: Tensor, delta: Tensor, weight_K: Tensor, bias_K: Tensor | None) -> None:
    """The gradients of a Linear layer: one batched product."""
    k = len(weight_K)
    inputs_KBI, delta_KBO = inputs.reshape(k, -1, inputs.shape[-1]), delta.reshape(k, -1, delta.shape[-1])
    gradients_KOI = weight_K.unflatten(1, layer.weight.shape)
    # On several threads the products take twice as long where they are not contiguous.
    if weight_K.is_cuda or torch.get_num_threads() > 1:
        gradients_KOI.copy_(torch.bmm(delta_KBO.mT, inputs_KBI))
    else:
        torch.bmm(delta_KBO.mT, inputs_KBI, out=gradients_KOI)
    if bias_K is not None:
        torch.sum(delta_KBO, dim=1, out=bias_K)


def convolution(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A Conv2d layer, with the weight and bias of all workers."""
    return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def convolution_gradients(
    layer: nn.Conv2d, inputs: Tensor, delta: Tensor, weight_K: Tensor, bias_K: Tensor | None
) -> None:
    """The gradients of a Conv2d layer, of one worker after the other: libraries are slow at grouped convolutions."""
    k, shape = len(weight_K), layer.weight.shape
    options: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
    for inputs_B, delta_B, weight in zip(inputs.chunk(k), delta.chunk(k), weight_K, strict=True):
        weight.view(shape).copy_(conv2d_weight(inputs_B, list(shape), delta_B, *options))
    if bias_K is not None:
        bias_K.copy_(_channel_sums(delta, None, k)[0])


def batch_norm(layer: nn.BatchNorm2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A BatchNorm2d layer in evaluation mode, with the weight and bias of all workers."""
    return functional.batch_norm(x, layer.running_mean, layer.running_var, weight, bias, False, 0.0, layer.eps)


def batch_norm_gradients(
    layer: nn.BatchNorm2d, inputs: Tensor, delta: Tensor, weight_K: Tensor, bias_K: Tensor | None
) -> None:
    """The gradients of a BatchNorm2d layer in evaluation mode."""
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    sums_KC, products_KC = _channel_sums(delta, inputs, len(weight_K))
    weight_K.copy_((products_KC - mean * sums_KC) * (variance + layer.eps).rsqrt())
    if bias_K is not None:
        bias_K.copy_(sums_KC)


def _channel_sums(images: Tensor, factors: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Each worker's sums, over its examples and pixels, of images (K*B, C, height, width) and of their products with
    others, if there are any: both (K, C)."""
    if fused(images):
        from byzray import gpu_kernels  # here, as it loads a compiler

        return gpu_kernels.channel_sums(images, factors, k)

    def added(values: Tensor) -> Tensor:
        return values.unflatten(0, (k, -1)).sum(dim=(1, 3, 4))

    sums_KC = added(images)
    return sums_KC, torch.zeros_like(sums_KC) if factors is None else added(images * factors)


DENSE: dict[type[nn.Module], tuple[Forward, Backward]] = {nn.Linear: (linear, linear_gradients)}
"""The layers with parameters that a chain may have whose workers may each be at a point of their own."""

LAYERS: dict[type[nn.Module], tuple[Forward, Backward]] = {
    **DENSE,
    nn.Conv2d: (convolution, convolution_gradients),
    nn.BatchNorm2d: (batch_norm, batch_norm_gradients),
}
"""Those of a chain whose workers share their point."""


def chain_of(module: nn.Module, known: dict[type[nn.Module], tuple[Forward, Backward]]) -> list[nn.Module] | None:
    """The layers of a network, one after the other, if it is a chain of known layers with a weight, each used once, and
    of layers without parameters; else None."""
    if type(module) is not nn.Sequential:
        return None
    chain: list[nn.Module] = []
    for layer in module:
        if type(layer) is nn.Sequential:
            inner = chain_of(layer, known)
            if inner is None:
                return None
            chain += inner
        elif type(layer) in LAYERS:
            if type(layer) not in known or not _is_plain(layer):
                return None
            chain.append(layer)
        elif not list(layer.parameters()):
            chain.append(layer)
        else:
            return None
    owned = [parameter for layer in chain for parameter in layer.parameters()]
    return chain if len(owned) == len(set(owned)) else None


def _is_plain(layer: nn.Module) -> bool:
    """Whether a known layer has no option that is not known here."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats
    return True
