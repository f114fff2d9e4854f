"""The search for the factor of an attack."""

from collections.abc import Callable


def maximise(value: Callable[[float], float], evaluations: int) -> float:
    """The x >= 0 of the largest value met within a budget of evaluations, from 0 on.

    Expansion: steps double as long as they pay. Contraction: from then on steps shrink by a fifth, each one leading
    from the last x towards the best. The value need be neither continuous nor unimodal: rules that select jump.

    Reference: the code published with E.-M. El-Mhamdi, R. Guerraoui, S. Rouault. Distributed Momentum for
    Byzantine-resilient Stochastic Gradient Descent. ICLR 2021.
    """
    best, best_value = 0.0, value(0.0)
    proposal, step, expanding = 0.0, 1.0, True
    for _ in range(evaluations - 1):
        if expanding:
            proposal = best + step
        elif proposal < best:
            proposal += step
        else:
            proposal = _lowered(proposal, step)
        proposed_value = value(proposal)
        better = proposed_value > best_value
        if better:
            best, best_value = proposal, proposed_value
        expanding = expanding and better
        step *= 2 if expanding else 0.8
    return best


def _lowered(x: float, step: float) -> float:
    """x - step, or if that is negative, the first of the points halfway back to x that is not."""
    lowered = x - step
    while lowered < 0:
        lowered = (lowered + x) / 2
    return lowered
