"""The study of a run: its metrics at every step, and whether it diverges.

Shapes in names: H honest submissions, F Byzantine ones, D parameters, K workers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzray.aggregators import Aggregate
from byzray.cohort import Contribution
from byzray.deviations import Spread, spread
from byzray.divergence import Divergence, reason, unsound
from byzray.metrics import KAPPA_COLUMN, METRIC_COLUMNS, Moments, Past, kappa_hat, metric_row
from byzray.setups import Setup
from byzray.state import State


class Observed(NamedTuple):
    """What the study needs of a step and the next step destroys. Nothing of it looks into the matrix of submissions.

    Attributes:
        sampled: the moments of the gradients before momentum; none: the workers report them.
        honest: those of the honest submissions that the rule sees.
        attack: those of the Byzantine submissions, if there are any.
        aggregate_D: what the defence returned.
        acceptance: how much of it is Byzantine, (1,) float64; NaN where that is not known.
        distance: ||theta - initial theta|| before the update.
    """

    sampled: Moments | None
    honest: Moments
    attack: Moments | None
    aggregate_D: Tensor
    acceptance: Tensor
    distance: Tensor


class Study:
    """Keeps a row of each step on the device, with all metrics if the setup asks for them.

    Args:
        setup: the setup of the run.
        theta_D: the initial parameters.

    Attributes:
        past: what earlier steps left for the metrics of the next; none without metrics.
        diverged: where and why the parameters became non-finite since the start, or since a state was restored, as far
            as the steps were observed: by :meth:`take_rows`, or by :meth:`keep` where the run stops for it.
        halted: whether the run ends with the last step, as it diverged and is set to stop there.
    """

    def __init__(self, setup: Setup, theta_D: Tensor) -> None:
        self.setup = setup
        self.origin_D = theta_D.clone()
        length = min(setup.study.past, max(setup.steps, 1)) if setup.study is not None else 0
        self.past = Past(length, setup.momentum.beta, len(theta_D), theta_D.device) if length else None
        # Of each step what :meth:`take_rows` returns of it, and whether aggregate and parameters were finite after it.
        self._rows: list[Tensor] = []
        self._unsound_2 = torch.zeros(2, dtype=torch.float64, device=theta_D.device)
        self.watch(theta_D)

    def watch(self, theta_D: Tensor) -> None:
        """Look out for divergence from here on; parameters that are not finite already do not diverge."""
        self.diverged: Divergence | None = None
        self.halted = False
        self._was_finite = not unsound(theta_D).isnan().item()

    def spread(self, vectors_KD: Tensor) -> Spread | None:
        """The spread of some vectors; none without metrics."""
        return None if self.past is None else spread(vectors_KD)

    def observe(
        self,
        sampled: Spread | None,
        honest: Spread | None,
        attack_FD: Tensor | None,
        aggregate: Aggregate,
        theta_D: Tensor,
    ) -> Observed | None:
        """Look at a step before its update; none without metrics.

        Args:
            sampled: the spread of the gradients that honest workers sent, before the server's momentum; none: the
                workers report their moments.
            honest: that of the honest submissions that the defence saw.
            attack_FD: the Byzantine submissions, if there are any.
            aggregate: what the defence returned.
            theta_D: the parameters.
        """
        if honest is None:
            return None
        attack = None if attack_FD is None else Moments.of(attack_FD)
        # Cloned, as they may be views of submissions, which the next ones overwrite.
        if attack is not None:
            attack = attack._replace(mean_D=attack.mean_D.clone())
        return Observed(
            sampled=None if sampled is None else Moments.of_spread(sampled),
            honest=Moments.of_spread(honest),
            attack=attack,
            aggregate_D=aggregate.vector_D.clone(),
            acceptance=acceptance(aggregate, honest.size, self.setup.byzantine),
            distance=torch.linalg.vector_norm(theta_D - self.origin_D),
        )

    def moved(self, aggregate_D: Tensor, theta_D: Tensor) -> None:
        """Note whether a step's aggregate and the parameters after it are finite."""
        self._unsound_2 = torch.stack([unsound(aggregate_D), unsound(theta_D)]).double()

    def halt_if_diverged(self) -> None:
        """Halt if the last step made the parameters non-finite and the run stops for it, before its row is kept."""
        self._halt_if(self._unsound_2[1])

    def _halt_if(self, unsound: Tensor) -> None:
        if self.setup.divergence == "stop" and self._was_finite:
            self.halted = bool(unsound.isnan())  # NaN says so

    def row(self, observed: Observed | None, contributions: Sequence[Contribution], step: int) -> Tensor:
        """The row of a step, on the device.

        Args:
            observed: what :meth:`observe` returned.
            contributions: the cohorts' contributions, in the order of their workers.
            step: its number.
        """
        setup = self.setup
        losses_H = torch.cat([contribution.losses_K for contribution in contributions])[: setup.honest]
        if missing := setup.missing_at(step):
            losses_H = losses_H[[worker for worker in range(setup.honest) if worker not in missing]]
        row = [losses_H.mean().double().reshape(1)]
        if self.past is not None and observed is not None:
            reported = [contribution.sampled for contribution in contributions if contribution.sampled is not None]
            values = metric_row(
                sampled=Moments.merge(reported) if observed.sampled is None else observed.sampled,
                honest=observed.honest,
                attack=observed.attack,
                defense_D=observed.aggregate_D,
                distance=observed.distance,
                past=self.past,
            )
            row += [values, observed.acceptance]
            if self.setup.measures_kappa:
                row.append(kappa_hat(observed.honest, observed.aggregate_D))
        return torch.cat([*row, self._unsound_2])

    def keep(self, row: Tensor, step: int) -> None:
        """Keep the row of a step; :meth:`take_rows` fetches many at once."""
        self._halt_if(row[-1])
        self._rows.append(row)
        if self.halted:
            self._look_for_divergence(step, row[None].cpu().numpy())

    def columns(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`take_rows` returns: with metrics all 24 and, if it is measured, kappa;
        the first three without."""
        if self.past is None:
            return METRIC_COLUMNS[:3]
        return (*METRIC_COLUMNS, KAPPA_COLUMN) if self.setup.measures_kappa else METRIC_COLUMNS

    def take_rows(self, stop: int) -> NDArray[np.float64]:
        """The rows of the steps since the last call up to `stop`, exclusive: (steps, columns)."""
        count = len(self._rows)
        steps = np.arange(stop - count, stop)
        gradients = steps * self.setup.honest
        if self.setup.faults is not None:
            gradients -= self.setup.faults.missing_before(steps)
        points = gradients * (self.setup.batch_size * self.setup.local_steps)
        if not count:
            return np.empty((0, len(self.columns())))
        values = torch.stack(self._rows).cpu().numpy()
        self._rows.clear()
        self._look_for_divergence(stop - count, values)
        return np.column_stack([steps, points, values[:, :-2]])

    def _look_for_divergence(self, step: int, values: NDArray[np.float64]) -> None:
        """Look whether the parameters became non-finite, given the values kept of a step and of those after it."""
        diverged = np.flatnonzero(np.isnan(values[:, -1]))
        if self.diverged is not None or not self._was_finite or not len(diverged):
            return
        first = int(diverged[0])
        *known, of_aggregate, _ = values[first].tolist()
        row = dict(zip(self.columns()[2:], known, strict=True))
        self.diverged = Divergence(step + first, reason(self.setup, step + first, row, not math.isnan(of_aggregate)))

    def state(self) -> State:
        """What the next row depends on."""
        state = {"origin": self.origin_D}
        if self.past is not None:
            state |= {"past means": self.past.means_PD, "past sum": self.past.sum_D}
        return state

    def resume(self, step: int, theta_D: Tensor) -> None:
        """Go on from a step, with a state that was put into the tensors of :meth:`state`; whether an earlier step
        diverged is forgotten."""
        if self.past is not None:
            self.past.resume(step)
        self.watch(theta_D)


def acceptance(aggregate: Aggregate, honest: int, byzantine: int) -> Tensor:
    """How much of an aggregate is Byzantine, (1,) float64: the share of the rows that a rule selected, else the weight
    of the Byzantine submissions; NaN where neither is known."""
    if aggregate.rows_K is not None:
        return (aggregate.rows_K >= honest).double().mean().reshape(1)
    weights_N = aggregate.weights_N(honest + byzantine)
    if weights_N is None:
        return aggregate.vector_D.new_full((1,), math.nan, dtype=torch.float64)
    return weights_N[honest:].sum().reshape(1)
