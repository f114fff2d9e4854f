"""Faults as a subject of study: which honest workers' submissions do not come, at which steps, and what then."""

import re
from bisect import bisect_right
from collections import defaultdict
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Kind = Literal["crash", "hang", "silent"]

Span = tuple[int, int]
"""The first and the last of consecutive steps."""

SPAN = re.compile(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?", re.ASCII)


def _steps(value: Any) -> tuple[Span, ...]:
    """Steps as spans, in order and apart from each other; a text takes no more room than it is long."""
    if isinstance(value, str):
        matches = [SPAN.fullmatch(part.strip()) for part in value.split(",")]
        spans = [(int(match[1]), int(match[2] or match[1])) for match in matches if match is not None]
        well_formed = len(spans) == len(matches) and all(first <= last for first, last in spans)
    else:
        numbers = _numbers(value)
        spans = [(number, number) for number in numbers]
        well_formed = bool(spans)
    if not well_formed:
        raise ValueError("expected a step, a list of steps, or a text such as '10-20, 25'")
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            raise ValueError(f"expected each step once, step {first} is there twice")
        if merged and first == merged[-1][1] + 1:
            first, _ = merged.pop()
        merged.append((first, last))
    return tuple(merged)


def _written(spans: tuple[Span, ...]) -> int | str:
    """Steps as a setup file writes them: ``7``, or ``10-20, 25``."""
    if len(spans) == 1 and spans[0][0] == spans[0][1]:
        return spans[0][0]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _workers(value: Any) -> tuple[int, ...]:
    workers = _numbers(value)
    if not workers:
        raise ValueError("expected a worker, or a list of workers, by their numbers from 0")
    if len(set(workers)) < len(workers):
        raise ValueError("expected each worker once")
    return tuple(sorted(workers))


def _numbers(value: Any) -> list[int]:
    """A number >= 0, or a list of such numbers; anything else is empty."""
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
    return numbers if whole else []


class Event(BaseModel):
    """A fault of some workers at some steps.

    Attributes:
        kind: `crash`: the worker dies before it computes; `hang`: it never answers, and counts as dead from the
            deadline on; `silent`: it computes, but nothing of it arrives. Whatever it is, at its next step the worker
            is there again.
        workers: which honest workers; one, or a list.
        steps: at which steps: one, a list, or a text such as ``10-20, 25``, with both ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Kind
    workers: Annotated[tuple[int, ...], BeforeValidator(_workers), PlainSerializer(list)]
    steps: Annotated[tuple[Span, ...], BeforeValidator(_steps), PlainSerializer(_written)]


class Faults(BaseModel):
    """Declared faults, and what the server does about them.

    Attributes:
        missing: what stands for a submission that does not come. `recover`: the server waits until the worker is back
            with its momentum, and repeats the step; `zero`: the zero vector; `drop`: nothing, the rule aggregates those
            that came.
        events: which workers fail, how and when; no worker twice at a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    missing: Literal["recover", "zero", "drop"] = "recover"
    events: Annotated[list[Event], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_worker_twice(self) -> Self:
        self.at(0)  # which brings the events in order, and notices
        return self

    @cached_property
    def _changes(self) -> tuple[list[int], list[dict[int, Kind]]]:
        """The steps at which the faults change, from 0 on, and the faults from each of them on until the next.

        Raises:
            ValueError: a worker fails twice at a step.
        """
        begin: dict[int, list[Event]] = defaultdict(list)
        end: dict[int, list[Event]] = defaultdict(list)
        for event in self.events:
            for first, last in event.steps:
                begin[first].append(event)
                end[last + 1].append(event)
        steps, faults = [], []
        now: dict[int, Kind] = {}
        for step in sorted({0, *begin, *end}):
            for event in end.get(step, ()):
                for worker in event.workers:
                    del now[worker]
            for event in begin.get(step, ()):
                if twice := now.keys() & set(event.workers):
                    raise ValueError(
                        f"expected a worker once at a step, worker {min(twice)} fails twice at step {step}"
                    )
                now.update(dict.fromkeys(event.workers, event.kind))
            steps.append(step)
            faults.append(dict(sorted(now.items())))
        return steps, faults

    def at(self, step: int) -> dict[int, Kind]:
        """The faults that are declared for a step: how each worker fails. Not to be modified."""
        steps, faults = self._changes
        return faults[bisect_right(steps, step) - 1]

    def missing_at(self, step: int) -> tuple[int, ...]:
        """The workers without whose submissions the server does a step, in order; with `recover` it does with all."""
        return () if self.missing == "recover" else tuple(self.at(step))

    def missing_counts(self) -> dict[int, int]:
        """How many submissions are missing at a step, if any, and the first step at which so many are."""
        if self.missing == "recover":
            return {}
        first: dict[int, int] = {}
        for step, faults in zip(*self._changes, strict=True):
            if faults:
                first.setdefault(len(faults), step)
        return first

    def missing_before(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many submissions are missing before each of some steps, all steps from 0 on together."""
        if self.missing == "recover":
            return np.zeros_like(steps)
        begin, before, counts = self._counted
        last = np.searchsorted(begin, steps, side="right") - 1
        return before[last] + counts[last] * (steps - begin[last])

    @cached_property
    def _counted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The steps of `_changes`, how many submissions are missing before them, and at each step from them on."""
        begin = np.array(self._changes[0], dtype=np.int64)
        counts = np.array([len(faults) for faults in self._changes[1]], dtype=np.int64)
        return begin, np.concatenate(([0], np.cumsum(counts[:-1] * np.diff(begin)))), counts

    @property
    def last_worker(self) -> int:
        """The highest number of a worker that fails."""
        return max(event.workers[-1] for event in self.events)

    @property
    def last_step(self) -> int:
        """The last step at which a worker fails."""
        return max(event.steps[-1][1] for event in self.events)
