"""How examples are dealt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def dealt(positions: NDArray[np.int64], workers: int) -> Sequence[NDArray[np.int64]]:
    """Consecutive parts, one a worker, of which the first are longer by one where they cannot be equal."""
    return np.array_split(positions, workers)
