"""Draws that are repeated until every worker has enough examples."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

TRIES = 100


def retried(
    drawn: Callable[[], Sequence[NDArray[np.int64]]], what: str, option: str, minimum: int, workers: int, examples: int
) -> Sequence[NDArray[np.int64]]:
    """The first shards drawn of which each has at least a minimum of examples.

    Args:
        drawn: draws shards.
        what: what is drawn, in messages.
        option: what to enlarge if it fails.
        minimum: how many examples each worker must have.
        workers: how many there are.
        examples: how many there are in all.

    Raises:
        ValueError: there are none in 100 tries.
    """
    if workers * minimum > examples:
        raise ValueError(
            f"split {what.partition(' ')[0]} needs minimum * workers <= examples; got minimum = {minimum}, "
            f"workers = {workers}, examples = {examples}"
        )
    for _ in range(TRIES):
        shards = drawn()
        if min(map(len, shards)) >= minimum:
            return shards
    raise ValueError(
        f"split {what} left some of {workers} workers with fewer than minimum = {minimum} examples in each of {TRIES} "
        f"tries; expected a larger {option} or a smaller minimum"
    )
