"""The search for the factor of an attack."""

from collections.abc import Callable

import torch
from torch import Tensor


def maximise(value: Callable[[Tensor], Tensor], evaluations: int, device: torch.device | str | None = None) -> Tensor:
    """The x >= 0 of the largest value met within a budget of evaluations, from 0 on.

    Expansion: steps double as long as they pay. Contraction: from then on steps shrink by a fifth, each one leading
    from the last x towards the best. The value need be neither continuous nor unimodal: rules that select jump. NaN is
    never better.

    x and its value are numbers on the device, float64 tensors without dimensions. Nothing here waits for them.

    Reference: the code published with E.-M. El-Mhamdi, R. Guerraoui, S. Rouault. Distributed Momentum for
    Byzantine-resilient Stochastic Gradient Descent. ICLR 2021.
    """
    best = proposal = torch.zeros((), dtype=torch.float64, device=device)
    best_value = value(best)
    step, expanding = torch.ones_like(best), torch.ones_like(best, dtype=torch.bool)
    for _ in range(evaluations - 1):
        towards_best = torch.where(proposal < best, proposal + step, _lowered(proposal, step))
        proposal = torch.where(expanding, best + step, towards_best)
        proposed_value = value(proposal)
        better = proposed_value > best_value
        best = torch.where(better, proposal, best)
        best_value = torch.where(better, proposed_value, best_value)
        expanding = expanding & better
        step = torch.where(expanding, 2 * step, 0.8 * step)
    return best


def _lowered(x: Tensor, step: Tensor) -> Tensor:
    """x - step, or if that is negative, the first of the points halfway back to x that is not.

    The points are x - step / 2^k. The exponents of x and step, and which mantissa is larger, give the first k.
    """
    x_mantissa, x_exponent = torch.frexp(x)
    step_mantissa, step_exponent = torch.frexp(step)
    halvings = (step_exponent - x_exponent + (step_mantissa > x_mantissa)).clamp(min=0)
    # An exponent of integers would be raised in single precision, which ends at 2^-149.
    return torch.where(x > 0, x - torch.ldexp(step, -halvings.double()), 0)
