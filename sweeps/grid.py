"""Grids: setups from axes, parameters that vary together, conditions and random draws."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from byzray.mistakes import WrongInput, lines, short
from byzray.setups import Setup
from byzray.setups.files import overridden
from sweeps.conditions import Condition, ConditionError, condition_variables

# Values by dotted key, such as {"momentum.placement": "update"}.
Overrides = Mapping[str, Any]

# The number of mistakes shown in full, as a grid repeats each many times.
SHOWN = 10

# A limit, as each combination is checked before anything runs, in a fraction of a millisecond.
MOST_COMBINATIONS = 10_000


class SweepError(WrongInput):
    """All mistakes in a sweep, one line each with the setup and the field.

    Args:
        source: where the sweep comes from, such as a file.
        mistakes: one line per mistake.
    """

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.source = source
        self.mistakes = list(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        shown = [f"  {mistake}" for mistake in mistakes[:SHOWN]]
        if len(mistakes) > SHOWN:
            shown.append(f"  ... and {len(mistakes) - SHOWN} more")
        super().__init__("\n".join([f"{source}: {count} in the sweep", *shown]))


@dataclass(frozen=True)
class Point:
    """A setup of a grid.

    Attributes:
        setup: the setup; its seed is not used.
        reference: the unattacked setup that a report compares it with.
    """

    setup: Setup
    reference: Setup | None = None


@dataclass(frozen=True)
class Grid:
    """A grid of setups.

    Attributes:
        base: what all setups have in common, as a setup file holds it.
        axes: dotted keys, each with its values; every combination is a setup.
        together: further axes with several keys each, whose values vary together.
        draws: further combinations, drawn at random.
        conditions: only combinations that meet all of them become setups, see :mod:`sweeps.conditions`.
        reference: whether to add the reference of each attacked setup: the average of the honest workers alone.
    """

    base: dict[str, Any]
    axes: Mapping[str, Sequence[Any]]
    together: Sequence[Mapping[str, Sequence[Any]]] = ()
    draws: Sequence[Overrides] = ()
    conditions: Sequence[str] = ()
    reference: bool = True

    def points(self, source: str) -> list[Point]:
        """All setups of the grid, checked.

        Args:
            source: where the grid comes from, for messages.

        Raises:
            SweepError: setups are not valid, or a condition cannot be evaluated; it lists every mistake.
        """
        points: list[Point] = []
        mistakes: dict[str, list[Overrides]] = {}
        if (count := math.prod(map(len, self._axes()))) > MOST_COMBINATIONS:
            raise SweepError(source, [f"has {count} combinations, expected at most {MOST_COMBINATIONS}"])
        for overrides in self.combinations():
            try:
                content = self._content(overrides)
                if all(Condition(text).holds(condition_variables(content)) for text in self.conditions):
                    points.append(self._point(Setup.model_validate(content)))
            except ValidationError as error:
                for line in lines(error):
                    mistakes.setdefault(line, []).append(overrides)
            except (ValueError, ConditionError) as error:
                mistakes.setdefault(str(error), []).append(overrides)
        if mistakes:
            raise SweepError(source, [f"{_named(where)}: {line}" for line, where in mistakes.items()])
        if not points:
            raise SweepError(source, ["no setup meets the conditions, expected at least one", *self._overlooked()])
        return points

    def _overlooked(self) -> list[str]:
        """The mistakes of the first combination, such as a misspelt key, which may be why no condition holds."""
        overrides = next(self.combinations())
        try:
            Setup.model_validate(self._content(overrides))
        except ValidationError as error:
            return [f"{_named([overrides])}: {line}" for line in lines(error)]
        return []

    def _content(self, overrides: Overrides) -> dict[str, Any]:
        content = self.base
        for dotted, value in overrides.items():
            content = overridden(content, dotted, value)
        return content

    def _axes(self) -> list[Sequence[Overrides]]:
        """The overrides of each axis, groups and draws included."""
        axes: list[Sequence[Overrides]] = [[{key: value} for value in values] for key, values in self.axes.items()]
        axes += [
            [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)]
            for group in self.together
        ]
        if self.draws:
            axes.append(self.draws)
        return axes

    def combinations(self) -> Iterator[Overrides]:
        """The overrides of each combination, the last axis varying fastest."""
        for chosen in itertools.product(*self._axes()):
            yield {key: value for overrides in chosen for key, value in overrides.items()}

    def _point(self, setup: Setup) -> Point:
        if not self.reference or setup.attack is None:
            return Point(setup)
        placement = setup.momentum.model_copy(update={"placement": "update"})
        reference = setup.changed(
            workers=setup.honest,
            byzantine=0,
            tolerated=0,
            attack=None,
            pre=[],
            aggregator="average",
            momentum=placement.model_dump(),
        )
        return Point(setup, reference)


def _named(where: Sequence[Overrides]) -> str:
    """The names in a message of the combinations that share a mistake."""
    first = ", ".join(f"{key}={short(value)}" for key, value in where[0].items()) or "the base"
    return first if len(where) == 1 else f"{first} (and {len(where) - 1} more)"


def setups(points: Iterable[Point], only: Sequence[str] = ()) -> list[Setup]:
    """The setups of points that meet all conditions, each once, references before the first setup that needs them.

    A reference is kept if it or a setup that needs it meets the conditions.
    """
    conditions = [Condition(text) for text in only]

    def holds(setup: Setup) -> bool:
        known = condition_variables(setup.describe())
        return all(condition.holds(known) for condition in conditions)

    chosen: dict[str, Setup] = {}
    for point in points:
        kept = holds(point.setup)
        if point.reference is not None and (kept or holds(point.reference)):
            chosen.setdefault(point.reference.digest(), point.reference)
        if kept:
            chosen.setdefault(point.setup.digest(), point.setup)
    return list(chosen.values())
