"""Status: the content of a run's status.json."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

from byzray.divergence import Divergence
from byzray.files import read_plain

# Counts in files of others; larger ones do not fit into a table.
Count = Annotated[int, Field(ge=0, lt=2**63)]

State = Literal["running", "interrupted", "failed", "stopped", "finished"]


def _divergence(value: Any) -> Any:
    return Divergence(**value) if isinstance(value, dict) and value.keys() == set(Divergence._fields) else value


class Status(BaseModel):
    """The content of status.json.

    Attributes:
        state: the state of the run.
        step: the number of steps taken when it was written.
        reason: why it failed or was stopped.
        seconds: how long its steps and evaluations took so far.
        diverged: where and why its parameters became non-finite.
        files: the SHA-256 of its files, unless it is running or failed.
    """

    model_config = ConfigDict(strict=True)

    state: State
    step: Count
    reason: str | None = None
    seconds: float | None = None
    diverged: Annotated[Divergence, BeforeValidator(_divergence), PlainSerializer(Divergence._asdict)] | None = None
    files: dict[str, str] | None = None

    @field_validator("seconds")
    @classmethod
    def _in_milliseconds(cls, seconds: float | None) -> float | None:
        return seconds if seconds is None else round(seconds, 3)

    @field_validator("diverged")
    @classmethod
    def _at_a_step(cls, diverged: Divergence | None) -> Divergence | None:
        if diverged is not None and not 0 <= diverged.step < 2**63:
            raise ValueError(f"expected a step, got {diverged.step}")
        return diverged


def read_status(folder: Path) -> Status | None:
    """The status.json of a run directory; None if there is none.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return Status.model_validate_json(read_plain(folder / "status.json"))
    except FileNotFoundError:
        return None
