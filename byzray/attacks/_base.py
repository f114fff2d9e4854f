"""Base class of attacks.

Shapes in names: H honest submissions, F Byzantine ones, D parameters.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from byzray.defence import Bound
from byzray.deviations import Spread, spread
from byzray.sampling import Batch
from byzray.state import State
from byzray.step import Stateful, Step


@dataclass(frozen=True)
class View:
    """What the adversary sees of a step in addition to the honest submissions.

    Attributes:
        step: the step.
        byzantine: how many submissions to answer, at least 1.
        defence: the defence at this step: from :class:`byzray.submissions.Submissions` to their
            :class:`byzray.aggregators.Aggregate`. To ask it changes nothing.
        workers_H: the numbers of the workers whose submissions are seen: some may be missing. Where a setup has
            pre-aggregators and zeros for missing submissions, the zeros are seen.
        own_FD: what the Byzantine workers computed, momentum included, if the attack has them train; not to be
            modified.
        honest: the mean and the deviations of the honest submissions, if they are known, not to be modified: see
            :meth:`spread`.
    """

    step: Step
    byzantine: int
    defence: Bound
    workers_H: tuple[int, ...]
    own_FD: Tensor | None = None
    honest: Spread | None = None

    def spread(self, vectors_KD: Tensor) -> Spread:
        """The mean and the deviations of some vectors; those of the honest submissions are computed once a step."""
        return self.honest if self.honest is not None and self.honest.is_of(vectors_KD) else spread(vectors_KD)

    def mean(self, vectors_KD: Tensor) -> Tensor:
        """The mean (D,) of some vectors, likewise; not to be modified."""
        if self.honest is not None and self.honest.is_of(vectors_KD):
            return self.honest.mean_D
        return vectors_KD.mean(dim=0)


class Attack(Stateful):
    """The adversary's strategy: it sees every honest submission and the server's defence, and answers for all
    Byzantine workers at once.

    An attack of your own derives from this class, declares its options as pydantic fields and implements
    :meth:`__call__`; with a state :meth:`initial_state` and :meth:`step`. What it draws comes from ``view.step``.

    Attributes:
        trains: whether the Byzantine workers run the honest code, on data that :meth:`poison` changes.
    """

    trains: ClassVar[bool] = False

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        """The Byzantine submissions.

        Args:
            honest_HD: the honest submissions of this step, not to be modified.
            view: what else is seen.

        Returns:
            (byzantine, D) submissions; equal rows may be an expanded view of one.
        """
        raise NotImplementedError(f"{self.label()} cannot attack a single step alone: call step")

    def step(self, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        """The Byzantine submissions of a step and the state after it: tensors of the same names and shapes. The state
        given must not be modified."""
        return self(honest_HD, view), state

    def poison(self, batch: Batch, classes: int, worker: int, step: int, generator: np.random.Generator) -> Batch:
        """What a Byzantine worker that trains makes of a batch of its own; where it computes, nothing else is seen.

        It may be asked more than once for the same batch.

        Args:
            batch: examples ready for the model, not to be modified.
            classes: C; labels are 0..C-1.
            worker: the number of the worker.
            step: the number of the step.
            generator: what random draws come from, made anew for each worker, step and local step.

        Returns:
            as many examples, of the same shapes and types.
        """
        return batch

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        """Why the attack cannot be mounted, in the form "needs ...; got ..."; None if it can."""
        return None

    def check_missing(self, honest: int, byzantine: int, f: int) -> str | None:
        """Why the attack cannot work at a step at which so many honest submissions come; None if it can."""
        return self.check(honest, byzantine, f)

    @classmethod
    def lacking(cls) -> list[str]:
        whole = cls.__call__ is not Attack.__call__ or cls.step is not Attack.step
        return super().lacking() or ([] if whole else ["__call__"])
