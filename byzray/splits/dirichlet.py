"""Shares of each class drawn from a Dirichlet distribution."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from byzray.splits._partition import PartitionSplit
from byzray.splits._retrying import retried


class Dirichlet(PartitionSplit):
    """Of each class every worker gets a share, drawn from a symmetric Dirichlet distribution.

    The smaller `alpha`, the less alike the workers. The examples of a class are shuffled and cut at the shares. If some
    worker gets fewer than `minimum` examples, all is drawn again, at most 100 times.

    Reference: M. Yurochkin, M. Agarwal, S. Ghosh, K. Greenewald, T. N. Hoang, Y. Khazaeni. Bayesian Nonparametric
    Federated Learning of Neural Networks. ICML 2019.
    """

    alpha: Annotated[float, Field(gt=0.01, allow_inf_nan=False)] = 0.5
    minimum: NonNegativeInt = 10

    def positions(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> Sequence[NDArray[np.int64]]:
        return retried(
            lambda: self._drawn(y, workers, classes, generator),
            f"dirichlet with alpha = {self.alpha}",
            "alpha",
            self.minimum,
            workers,
            len(y),
        )

    def _drawn(
        self, y: NDArray[np.int64], workers: int, classes: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(workers)]
        for label in range(classes):
            examples = generator.permutation(np.flatnonzero(y == label))
            shares = generator.dirichlet(np.full(workers, self.alpha))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(examples)).astype(np.int64)
            for part, piece in zip(parts, np.split(examples, cuts), strict=True):
                part.append(piece)
        return [np.concatenate(part) for part in parts]
