"""How growth is measured and drawn: exponents, a long run, and labels that do not overlap."""

import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import growth
import growth_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg


def curve(name: str, at: tuple[int, ...], **powers: float) -> dict[str, Any]:
    points: list[dict[str, Any]] = [{"at": x, **{key: 1e7 * x**power for key, power in powers.items()}} for x in at]
    exponents = {quantity: growth.exponent(points, quantity) for quantity in powers}
    return {"name": name, "points": points, "exponents": exponents, "set by": dict.fromkeys(powers, "")}


def test_exponent_of_the_upper_half() -> None:
    points = [{"at": x, "y": 5.0 if x < 100 else x**1.5} for x in (1, 10, 100, 1000, 10_000)]
    assert growth.exponent(points, "y") == pytest.approx(1.5)
    failed = [*points, {"at": 100_000, "failed": "out of memory"}]
    assert growth.exponent(failed, "y") == pytest.approx(1.5)
    assert growth.exponent([{"at": 10, "y": 1.0}, {"at": 20, "failed": "out of memory"}], "y") is None
    assert growth.exponent([{"at": 10, "failed": "out of memory"}], "y") is None


def test_all_rules_are_measured() -> None:
    # A mixture is as large as its rules, and what asks for the server's own data is none of submissions alone.
    rules = {name: rule() for name, rule in growth.AGGREGATORS.classes.items() if name != "random-mixture"}
    assert set(growth.RULES_SET_BY) == {name for name, rule in rules.items() if not rule.root_examples}
    for rule in growth.RULES_SET_BY:
        assert growth.AGGREGATORS.classes[rule]().check(growth.RULE_N, growth.RULE_F) is None
    for rule in growth.WORKERS_SET_BY:
        for workers in growth.WORKERS:
            assert growth.mnist_setup(workers, workers // 4, rule).honest == workers - workers // 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which is there on Linux alone")
def test_long_run() -> None:
    samples = growth.long_run(40, 20)["samples"]
    assert [step for step, _ in samples] == [20, 40]
    assert all(memory > 50 * growth.MB for _, memory in samples)


@pytest.mark.parametrize("wanted", [[0.5] * 4, [0.97, 0.98, 0.99, 1.0], [0.1, 0.11, 0.5, 0.9]])
def test_labels_keep_their_order_and_their_distance(wanted: list[float]) -> None:
    found = growth_figure.spread(wanted, 0.05)
    assert all(upper - lower > 0.0499 for lower, upper in pairwise(found))
    assert found[-1] <= 1


def test_no_label_covers_another() -> None:
    rules = [curve(rule, growth.DIMENSIONS, seconds=1, increase=1) for rule in growth.RULES_SET_BY]
    actors = dict.fromkeys(("seconds", "start", "worker", "server", "all"), 0.1)
    workers = [curve(rule, growth.WORKERS, seconds=2, increase=1) for rule in growth.WORKERS_SET_BY]
    figures = {
        "workers": {"curves": workers},
        "dimension": {"n": 11, "f": 2, "curves": rules},
        "actors": {"curves": [curve("one worker each", growth.ACTORS, **actors)]},
    }
    figure = growth_figure.draw(figures)
    FigureCanvasAgg(figure).draw()
    shown = [text for ax in figure.axes for text in ax.texts] + [ax.yaxis.label for ax in figure.axes]
    boxes = [text.get_window_extent() for text in shown]
    assert len(boxes) == 2 * (3 + len(growth.RULES_SET_BY)) + 2 + 3 + 6
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
