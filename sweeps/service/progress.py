"""What a driver reports: the progress of its sweep, in a file of the sweep's folder."""

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from byzray.client.models import Counts, RunProgress
from byzray.files import read_plain, replace_text

FILE = "progress.json"


class Ended(BaseModel):
    """How a driver ended.

    Attributes:
        complete: whether no run is left to compute.
        why: why it ended before all runs were computed, or why runs failed; else empty.
        again: whether another driver is to be started: this one was stopped, or the cluster lost room.
    """

    complete: bool
    why: str = ""
    again: bool = False


class Report(BaseModel):
    """The progress of a sweep.

    Attributes:
        round: see :class:`sweeps.service.records.Record`.
        updated: when it was written, in seconds since 1970.
        runs: how many runs there are in each state.
        current: the runs that are being computed.
        why: why no further run starts, if runs wait.
        stuck: whether they cannot be placed on the cluster as it is.
        steps_per_second: of all runs together.
        seconds_left: an estimate.
        ended: how the driver ended; None while it runs, and if it was killed.
    """

    model_config = ConfigDict(extra="ignore")

    round: int
    updated: float
    runs: Counts
    current: list[RunProgress] = []
    why: str = ""
    stuck: bool = False
    steps_per_second: float | None = None
    seconds_left: float | None = None
    ended: Ended | None = None


def read_report(folder: Path) -> Report | None:
    """What a sweep's last driver reported; None if there is no report that can be read."""
    try:
        return Report.model_validate_json(read_plain(folder / FILE))
    except (OSError, ValidationError):
        return None


def write_report(folder: Path, report: Report) -> None:
    """Replace the report of a sweep."""
    content = report.model_dump_json() + "\n"
    replace_text(folder / FILE, content)


def finite(value: Any) -> float | None:
    """A number that JSON has, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
