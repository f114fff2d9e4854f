"""Result: the result of a run, for Python callers."""

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from byzray.divergence import Divergence
from byzray.setups import Setup

FAULT_COLUMNS = ("step", "worker", "fault", "submission")


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run.

    Attributes:
        setup: the resolved setup.
        metrics: one row a step; the 24 columns of `byzray.metrics.METRIC_COLUMNS` and, if it is measured, kappa-hat; or
            the first three without a study.
        evaluations: columns step and accuracy (a share of 1); where workers have examples of their own also the
            smallest and the mean of the workers' accuracies.
        parameters: (D,) the final parameters.
        directory: the run directory, if it was written.
        faults: if the setup declares faults: columns step, worker, fault and submission (what replaced it).
        diverged: where and why its parameters became non-finite, if they did.
        seconds: how long its steps and evaluations took; NaN if that is not known.
        reused: whether it was computed earlier and only read.
    """

    setup: Setup
    metrics: pd.DataFrame
    evaluations: pd.DataFrame
    parameters: NDArray[np.float32]
    directory: Path | None = None
    faults: pd.DataFrame | None = None
    diverged: Divergence | None = None
    seconds: float = math.nan
    reused: bool = False

    @property
    def best_accuracy(self) -> float:
        """The highest accuracy that was measured."""
        return float(self.evaluations["accuracy"].max())

    @property
    def last_accuracy(self) -> float:
        """The accuracy at the end; NaN if none was measured."""
        return float(self.evaluations["accuracy"].iloc[-1]) if len(self.evaluations) else math.nan

    def state_dict(self, data: str | Path | None = None) -> dict[str, Tensor]:
        """The final parameters by their names, as `load_state_dict` of the model's PyTorch module takes them.

        Frozen parameters and buffers (BatchNorm's statistics) are those of the initialised module.

        Args:
            data: the folder that holds data sets, see :func:`byzray.data.data_root`; it is read only if the shape of
                the examples is not known without (`npz`).
        """
        from byzray.data import shape_of
        from byzray.gradients import trained_module  # on first use: actors that import this module need neither

        shape, classes = shape_of(self.setup, data)
        return trained_module(self.setup, shape, classes, self.parameters).state_dict()

    def __repr__(self) -> str:
        return f"<Result of {self._summary()}>"

    def _repr_html_(self) -> str:
        table = self.evaluations.tail(5).to_html(index=False, border=0, float_format=lambda share: f"{share:.4f}")
        return f"<p><b>{escape(self._summary())}</b></p>{table}"

    def _summary(self) -> str:
        parts = [f"{self.setup.label()}: {len(self.metrics)} steps"]
        if len(self.evaluations):
            parts.append(f"accuracy {self.last_accuracy:.4f}, best {self.best_accuracy:.4f}")
        if self.diverged is not None:
            parts.append(f"diverged at step {self.diverged.step}")
        return ", ".join(parts)
