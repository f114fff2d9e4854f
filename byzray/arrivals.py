"""Whose submissions arrive at a step, and what stands for the others.

Shapes in names: N submissions, of which H honest, D parameters.
"""

from torch import Tensor

from byzray.setups import Setup


def received(setup: Setup, submissions_ND: Tensor, step: int) -> tuple[Tensor, tuple[int, ...]]:
    """The rows of the submissions that come at a step, honest and Byzantine, and the numbers of the honest workers
    among them. These are all rows, or a copy without those that are missing; Byzantine ones, the last, do come."""
    missing = setup.missing_at(step)
    if not missing:
        return submissions_ND, tuple(range(setup.honest))
    coming = [worker for worker in range(setup.workers) if worker not in missing]
    return submissions_ND[coming], tuple(coming[: len(coming) - setup.byzantine])


def lacking(setup: Setup, came: int) -> bool:
    """Whether zeros stand for some submissions, given how many come."""
    return setup.faults is not None and setup.faults.missing == "zero" and came < setup.workers


def filled(setup: Setup, came_ND: Tensor, step: int) -> Tensor:
    """The submissions that came, with zeros for the others."""
    missing = setup.missing_at(step)
    submissions_ND = came_ND.new_zeros(setup.workers, came_ND.shape[1])
    submissions_ND[[worker for worker in range(setup.workers) if worker not in missing]] = came_ND
    return submissions_ND
