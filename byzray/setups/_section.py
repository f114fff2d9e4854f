"""The base class of the sections of a setup."""

from pydantic import BaseModel, ConfigDict

# Factors of float32 tensors, which hold no larger numbers.
LARGEST_FLOAT = 1e38


class Section(BaseModel):
    """A part of a setup: immutable, with no unknown keys and no values of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
