"""Label flipping.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

import numpy as np
from torch import Tensor

from byzray.attacks._base import Attack, View
from byzray.sampling import Batch


class LabelFlipping(Attack):
    """What workers submit that run the honest code on labels C-1-l instead of l: data poisoning, which sees nothing.

    The Byzantine workers have data, momentum, clipping and local steps of their own. With the shared stream they take
    places in it, so that the honest workers draw other batches than in a run without them; with a split they draw from
    the whole training set. An odd number of classes leaves the middle one as it is.

    Reference: M. Fang, X. Cao, J. Jia, N. Gong. Local Model Poisoning Attacks to Byzantine-Robust Federated Learning.
    USENIX Security 2020.
    """

    trains = True

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        assert view.own_FD is not None
        return view.own_FD

    def poison(self, batch: Batch, classes: int, worker: int, step: int, generator: np.random.Generator) -> Batch:
        return Batch(batch.x, classes - 1 - batch.y)
