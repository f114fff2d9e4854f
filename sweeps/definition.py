"""Sweeps by name or from a file, checked before anything runs."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator
from ray import tune
from ray.tune.search.sample import Domain

from byzray.mistakes import SetupError, in_plain_words, lines
from byzray.setups import Actors, Setup
from byzray.setups._section import Section
from byzray.setups.files import overridden, read_content
from sweeps import paper
from sweeps.conditions import ConditionError
from sweeps.grid import Grid, Overrides, Point, SweepError, setups

# The number of a search's draws that are checked before it starts.
CHECKED_DRAWS = 50

# Limits, so that a typo does not fill the memory.
MOST_DRAWS = MOST_SEEDS = 10_000


class Range(Section):
    """The range of a drawn parameter: exactly one of these.

    Attributes:
        uniform: the least and the greatest number.
        loguniform: the least and the greatest number, drawn uniformly in the logarithm.
        integer: the least and the greatest integer, both included.
        choice: the values.
    """

    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    loguniform: tuple[FiniteFloat, FiniteFloat] | None = None
    integer: tuple[int, int] | None = None
    choice: list[Any] | None = Field(default=None, min_length=1)

    @field_validator("uniform", "loguniform", "integer", mode="before")
    @classmethod
    def _two(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(type(self).model_fields)}")
        bounds = self.uniform or self.loguniform or self.integer
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"expected {given[0]}: [LEAST, GREATEST] with LEAST < GREATEST")
        if self.loguniform is not None and not self.loguniform[0] > 0:
            raise ValueError("expected loguniform: [LEAST, GREATEST] with LEAST > 0")
        if self.uniform is not None and math.isinf(self.uniform[1] - self.uniform[0]):
            raise ValueError("expected uniform: [LEAST, GREATEST] with a finite difference")
        return self

    def domain(self) -> Domain:
        """The range as Tune's class."""
        if self.uniform is not None:
            return tune.uniform(*self.uniform)
        if self.loguniform is not None:
            return tune.loguniform(*self.loguniform)
        if self.integer is not None:
            return tune.randint(self.integer[0], self.integer[1] + 1)
        return tune.choice(self.choice or [])


class Sample(Section):
    """Parameters drawn from ranges.

    Attributes:
        count: the number of draws; each is combined with every combination of the axes.
        over: the range of each parameter, by dotted key.
        search: random draws, or Optuna's suggestions from the accuracies so far.
        seed: the seed of the draws.
    """

    count: PositiveInt = Field(le=MOST_DRAWS)
    over: dict[str, Range] = Field(min_length=1)
    search: Literal["random", "optuna"] = "random"
    seed: NonNegativeInt = 0

    def draws(self, count: int) -> list[Overrides]:
        """Random draws, which depend only on the seed."""
        rng = np.random.default_rng(self.seed)
        domains = {key: one.domain() for key, one in self.over.items()}
        return [{key: _plain(one.sample(random_state=rng)) for key, one in domains.items()} for _ in range(count)]


class EarlyStopping(Section):
    """Early stopping of runs that are worse than others at the same step, with Tune's ASHA scheduler.

    Attributes:
        grace_steps: no run is stopped before this step.
        reduction_factor: at each rung, the best 1/reduction_factor of the runs continue.
    """

    grace_steps: PositiveInt = 1
    reduction_factor: float = Field(default=3, gt=1, allow_inf_nan=False)


class SweepFile(Section):
    """The content of a sweep file.

    Attributes:
        base: what all setups have in common: the path of a setup file, relative to this file, or the fields themselves.
        axes: values by dotted key; every combination is a setup.
        together: further axes with several keys each, whose values vary together.
        conditions: only combinations that meet all of them become setups.
        reference: whether to add the unattacked reference of each attacked setup. By default yes, except for a search
            and with early stopping, where it would beat all others.
        seeds: a list, or a text such as 1-5; by default the base's seed.
        sample: parameters drawn from ranges.
        early_stopping: see :class:`EarlyStopping`.
    """

    base: str | dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    together: list[dict[str, list[Any]]] = Field(default_factory=list)
    conditions: list[str] = Field(default_factory=list)
    reference: bool | None = None
    seeds: list[NonNegativeInt] | None = Field(default=None, min_length=1)
    sample: Sample | None = None
    early_stopping: EarlyStopping | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        value = parse_seeds(value) if isinstance(value, str) else [value] if isinstance(value, int) else value
        return list(dict.fromkeys(value)) if isinstance(value, list) and all(map(_is_count, value)) else value

    @field_validator("axes")
    @classmethod
    def _not_empty(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in axes.items():
            if not values:
                raise ValueError(f"expected at least one value of {key}")
        return axes

    @field_validator("together")
    @classmethod
    def _as_long(cls, together: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        for group in together:
            lengths = {key: len(values) for key, values in group.items()}
            if len(set(lengths.values())) != 1 or 0 in lengths.values():
                counted = ", ".join(f"{count} of {key}" for key, count in lengths.items())
                raise ValueError(f"expected the same number of values for each key, got {counted or 'none'}")
        return together

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        keys = [*self.axes, *(key for group in self.together for key in group)]
        keys += self.sample.over if self.sample is not None else []
        if "seed" in keys:
            raise ValueError("expected seeds in 'seeds', got 'seed' as an axis")
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"expected each parameter in one place, got {', '.join(twice)} more than once")
        within = sorted(f"{key} and {other}" for key in keys for other in keys if other.startswith(f"{key}."))
        if within:
            raise ValueError(f"expected no parameter within another, got {', '.join(within)}")
        if self.sample is not None and self.sample.search == "optuna" and (self.axes or self.together):
            raise ValueError("expected no axes with 'search: optuna': list its parameters in 'sample.over'")
        if self.sample is not None and self.sample.search == "optuna" and self.conditions:
            raise ValueError("expected no conditions with 'search: optuna', which does not evaluate them")
        return self


@dataclass(frozen=True)
class Search:
    """A search for setups, each suggested from the accuracies of earlier ones.

    Attributes:
        base: what all setups have in common, as a setup file holds it.
        sample: the ranges, and the number of draws.
    """

    base: dict[str, Any]
    sample: Sample

    def digest(self) -> str:
        """Ten hexadecimal digits of a hash of the base and the ranges."""
        content = [self.base, self.sample.model_dump()["over"]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    def setup(self, draw: Overrides) -> Setup:
        """The setup of a draw; other keys of `draw` are ignored.

        Raises:
            SweepError: it is not valid.
        """
        content = self.base
        try:
            for key in self.sample.over:
                content = overridden(content, key, _plain(draw[key]))
            return Setup.model_validate(content)
        except ValidationError as error:
            named = ", ".join(f"{key}={draw[key]!r}" for key in self.sample.over)
            raise SweepError("search", [f"{named}: {line}" for line in lines(error)]) from None

    def examples(self) -> list[Setup]:
        """Some setups that the search may find.

        Raises:
            SweepError: none is valid; it holds the first mistake.
        """
        found: list[Setup] = []
        mistakes: list[str] = []
        for draw in self.sample.draws(CHECKED_DRAWS):
            try:
                found.append(self.setup(draw))
            except SweepError as error:
                mistakes += error.mistakes
            except ValueError as error:
                mistakes.append(str(error))
        if not found:
            raise SweepError("search", mistakes[:1])
        return found


@dataclass(frozen=True)
class Sweep:
    """A sweep: setups and seeds, or a search, and how runs are stopped early.

    Attributes:
        name: its name, or the name of its file.
        points: its setups.
        seeds: each setup runs with each of them.
        search: finds the setups; then there are no points.
        early_stopping: how runs are stopped early, if they are.
    """

    name: str
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    search: Search | None = None
    early_stopping: EarlyStopping | None = None

    def setups(self, only: tuple[str, ...] = ()) -> list[Setup]:
        """The setups that meet all conditions, each once.

        Raises:
            SweepError: a condition cannot be evaluated, or none is left.
        """
        if only and self.search is not None:
            raise SweepError(self.name, ["--only: cannot select setups of a search, as Optuna has not found them yet"])
        try:
            chosen = setups(self.points, only)
        except ConditionError as error:
            raise SweepError(self.name, [f"--only: {error}"]) from None
        if not chosen and self.search is None:
            raise SweepError(self.name, [f"--only: no setup meets {' and '.join(only)}, expected at least one"])
        return chosen

    def digest(self) -> str:
        """Ten hexadecimal digits of a hash of all its setups."""
        setups = [setup.digest() for setup in self.setups()]
        found = None if self.search is None else self.search.digest()
        return hashlib.sha256(json.dumps([setups, found]).encode()).hexdigest()[:10]

    def changed(self, values: Overrides) -> "Sweep":
        """This sweep with values replaced in all setups, by dotted key.

        Raises:
            SweepError: a setup is not valid with them; it lists every mistake.
        """
        mistakes: dict[str, None] = {}

        def change(setup: Setup) -> Setup:
            content = setup.describe()
            if setup.tolerated == setup.byzantine:
                del content["tolerated"]  # it changes with it
            try:
                for key, value in values.items():
                    content = overridden(content, key, value)
                return Setup.model_validate(content)
            except ValidationError as error:
                mistakes.update(dict.fromkeys(lines(error)))
            except ValueError as error:
                mistakes[str(error)] = None
            return setup

        def changed_base(search: Search) -> Search:
            base = search.base
            try:
                for key, value in values.items():
                    base = overridden(base, key, value)
            except ValueError as error:
                mistakes[str(error)] = None
            return replace(search, base=base)

        points = tuple(Point(change(one.setup), one.reference and change(one.reference)) for one in self.points)
        search = self.search and changed_base(self.search)
        if mistakes:
            raise SweepError(self.name, [f"set: {mistake}" for mistake in mistakes])
        if search is not None:
            search.examples()
        return replace(self, points=points, search=search)

    def laid_out(self, workers_per_actor: int | None) -> "Sweep":
        """This sweep with so many workers per actor in all setups; None: each run in one process."""

        def layout(known: Actors | None) -> dict[str, Any] | None:
            changed = {**(known or Actors()).model_dump(), "workers_per_actor": workers_per_actor}
            return None if workers_per_actor is None else changed

        def laid(setup: Setup) -> Setup:
            return setup.changed(actors=layout(setup.actors))

        points = tuple(Point(laid(one.setup), one.reference and laid(one.reference)) for one in self.points)
        search = self.search and replace(self.search, base={**self.search.base, "actors": layout(None)})
        return replace(self, points=points, search=search)


def _built_in(name: str, grids: tuple[Grid, ...], seeds: tuple[int, ...]) -> Sweep:
    return Sweep(name, tuple(point for grid in grids for point in grid.points(name)), seeds)


# The built-in sweeps, each with its description.
SWEEPS: Mapping[str, tuple[str, Callable[[], Sweep]]] = {
    "demo": (
        "The paper's study in small, on handwritten digits: six rules, two attacks, two placements, 2 seeds.",
        partial(_built_in, "demo", (paper.DEMO,), (1, 2)),
    ),
    "paper": (
        "The 736 setups of the paper on MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, 5 seeds.",
        partial(_built_in, "paper", (paper.MNIST, paper.CIFAR), paper.SEEDS),
    ),
    "appendix": (
        "The 22 setups of its appendix: wide residual networks on CIFAR-10, 5 seeds.",
        partial(_built_in, "appendix", (paper.APPENDIX,), paper.SEEDS),
    ),
}


def load_sweep(name: str) -> Sweep:
    """A sweep by its name, or from a file.

    Raises:
        SweepError: there is none, or it is not valid; it lists every mistake.
    """
    if name in SWEEPS:
        return SWEEPS[name][1]()
    path = Path(name)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise SweepError(name, [f"there is no such sweep: expected {', '.join(SWEEPS)}, or a YAML file"])
    try:
        content = read_content(path)
    except SetupError as error:
        raise SweepError(name, error.mistakes) from error
    file = parse_file(name, content)
    try:
        base = read_content(path.parent / file.base) if isinstance(file.base, str) else file.base
    except SetupError as error:
        raise SweepError(name, [f"base: {error.source}: {one}" for one in error.mistakes]) from error
    return sweep_of(file, base, name, path.stem)


def sweep_of(file: SweepFile, base: dict[str, Any], source: str, name: str) -> Sweep:
    """The sweep that a file describes.

    Args:
        file: its content.
        base: what all setups have in common, as a setup file holds it.
        source: where it comes from, for messages.
        name: its name.

    Raises:
        SweepError: it is not valid; it lists every mistake.
    """
    # By default each run of a sweep is computed in one process.
    base = {"actors": None, **base}
    seeds = tuple(file.seeds or [base.get("seed", 1)])
    if file.sample is not None and file.sample.search == "optuna":
        search = Search(base, file.sample)
        try:
            setups = search.examples()
        except SweepError as error:
            raise SweepError(source, error.mistakes) from None
        sweep = Sweep(name, (), seeds, search, file.early_stopping)
    else:
        grid = Grid(
            base=base,
            axes=file.axes,
            together=file.together,
            draws=file.sample.draws(file.sample.count) if file.sample is not None else (),
            conditions=file.conditions,
            reference=file.reference if file.reference is not None else file.early_stopping is None,
        )
        points = tuple(grid.points(source))
        setups = [point.setup for point in points]
        sweep = Sweep(name, points, seeds, None, file.early_stopping)
    if file.early_stopping is not None and not all(setup.evaluation_interval for setup in setups):
        raise SweepError(
            source, ["early_stopping: expected evaluation_interval >= 1, got 0: evaluated only at the end"]
        )
    return sweep


def parse_file(source: str, content: dict[str, Any]) -> SweepFile:
    """Check the content of a sweep file; its setups are not checked yet.

    Raises:
        SweepError: it lists every mistake.
    """

    def known(loc: tuple[int | str, ...], _: dict[str, Any]) -> list[str]:
        models: dict[tuple[int | str, ...], type[Section]] = {
            (): SweepFile,
            ("sample",): Sample,
            ("early_stopping",): EarlyStopping,
        }
        model = Range if loc[:2] == ("sample", "over") else models.get(loc)
        return list(model.model_fields) if model is not None else []

    try:
        return SweepFile.model_validate(content)
    except ValidationError as error:
        details = in_plain_words([one for one in error.errors() if one["loc"]], content, known)
        mistakes = lines(ValidationError.from_exception_data("sweep", details)) if details else []
        mistakes += [str(one["ctx"]["error"]) for one in error.errors() if not one["loc"]]
        raise SweepError(source, mistakes) from None


def parse_seeds(text: str) -> list[int]:
    """Parse seeds from a text such as ``1-5`` or ``1,3,7-9``, each once.

    Raises:
        ValueError: it is something else.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not re.fullmatch(r"\d{1,18}", first) or (dash and not re.fullmatch(r"\d{1,18}", last)):
            raise ValueError("expected seeds such as 1-5 or 1,3,7-9")
        seeds = range(int(first), int(last or first) + 1)
        if not seeds:
            raise ValueError("expected seeds such as 1-5 or 1,3,7-9")
        if len(found) + len(seeds) > MOST_SEEDS:
            raise ValueError(f"expected at most {MOST_SEEDS} seeds")
        found.update(dict.fromkeys(seeds))
    return list(found)


def _plain(value: Any) -> Any:
    """A drawn number as a Python number, as setups take no numpy types."""
    return value.item() if isinstance(value, np.generic) else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
