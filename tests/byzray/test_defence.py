"""Pre-aggregators and a rule after them, against plain numpy, and what an adversary may ask of them.

Shapes in names: N submissions, H honest ones, D parameters, M mixed submissions.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from byzray import Setup, simulate
from byzray.aggregators import AGGREGATORS, Aggregate, Aggregator, Krum, Median, MultiKrum, Weighting
from byzray.attacks import Attack, Empire, EmpireStrict, Hidden, Little, View, maximise
from byzray.data import load_data
from byzray.defence import Defence
from byzray.deviations import spread
from byzray.preaggregators import PREAGGREGATORS, Bucketing, Nnm, PreAggregator
from byzray.randomness import generator
from byzray.simulation import LocalSimulation
from byzray.state import State
from byzray.step import Step
from byzray.study import acceptance
from byzray.submissions import Matrix, Submissions

Rows = NDArray[np.float64]


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def defence(pre: list[Any], rule: Any) -> Defence:
    return Defence([PREAGGREGATORS.parse(part) for part in pre], AGGREGATORS.parse(rule))


# Pre-aggregators in plain numpy: what rows they make, and the f that is left


def naive_nnm(x: Rows, f: int, step: Step) -> tuple[Rows, int]:
    mixed = []
    for i in range(len(x)):
        with np.errstate(invalid="ignore"):  # of infinities
            lengths = np.nan_to_num(np.linalg.norm(x - x[i], axis=1), nan=math.inf)
        lengths[i] = -1
        mixed.append(x[np.sort(lengths.argsort(kind="stable")[: len(x) - f])].mean(axis=0))
    return np.array(mixed), f


def naive_bucketing(x: Rows, f: int, step: Step, size: int = 2) -> tuple[Rows, int]:
    order = generator(step.seed, "bucketing", step.number).permutation(len(x))
    return np.array([x[order[i : i + size]].mean(axis=0) for i in range(0, len(x), size)]), f


Naive = Callable[[Rows, int, Step], tuple[Rows, int]]
THREES = {"name": "bucketing", "size": 3}
PIPELINES: dict[str, tuple[list[Any], list[Naive]]] = {
    "none": ([], []),
    "nnm": (["nnm"], [naive_nnm]),
    "bucketing": (["bucketing"], [naive_bucketing]),
    "bucketing by threes": ([THREES], [lambda x, f, step: naive_bucketing(x, f, step, 3)]),
    "nnm, then bucketing": (["nnm", "bucketing"], [naive_nnm, naive_bucketing]),
    "bucketing, then nnm": (["bucketing", "nnm"], [naive_bucketing, naive_nnm]),
    "nnm twice": (["nnm", "nnm"], [naive_nnm, naive_nnm]),
}
RULES: list[Any] = ["average", "median", "trimmed-mean", "phocas", "multi-krum", "krum", "minimum-diameter", "cge"]


def naive(pipeline: str, rule: Aggregator, x_ND: Tensor, step: Step) -> Tensor:
    """The rule on the rows that the pre-aggregators make."""
    rows, f = x_ND.numpy(), step.f
    for part in PIPELINES[pipeline][1]:
        rows, f = part(rows, f, step)
    return rule(torch.from_numpy(rows), f)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("rule", RULES)
def test_a_pipeline_is_the_rule_on_the_rows_that_its_parts_make(pipeline: str, rule: str) -> None:
    whole = defence(PIPELINES[pipeline][0], rule)
    compared = 0
    for seed in range(6):
        for n, f in ((17, 2), (20, 1), (25, 3)):
            step = Step(seed=seed, number=seed % 3, n=n, f=f)
            if whole.check(n, f) is not None:
                continue
            x_ND = normal(n, 12, 100 * seed + n) + (3 if seed % 2 else 0)
            x_ND[n - f :] *= 10
            found = whole.at(step, {})(Matrix(x_ND))
            expected_D = naive(pipeline, whole.rule, x_ND, step)
            torch.testing.assert_close(found.vector_D, expected_D, rtol=1e-12, atol=1e-12)
            compared += 1
    assert compared >= 6


def test_the_order_of_the_parts_matters() -> None:
    x_ND, step = normal(21, 5), Step(n=21, f=3)
    vectors = [defence(PIPELINES[name][0], "median").at(step, {})(Matrix(x_ND)).vector_D for name in PIPELINES]
    for i, vector_D in enumerate(vectors):
        assert not any(torch.allclose(vector_D, other_D) for other_D in vectors[:i])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nearest_neighbours_with_ties_and_rows_that_are_not_finite(data: st.DataObject) -> None:
    """Ties go to the lowest index, but a submission is nearest to itself; rows that are not finite are the furthest."""
    n = data.draw(st.integers(1, 9), "n")
    f = data.draw(st.integers(0, (n - 1) // 2), "f")
    points = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=n, max_size=n), "points")
    x_ND = torch.tensor(points, dtype=torch.float64)
    bad = data.draw(st.lists(st.integers(0, n - 1), max_size=f, unique=True), "bad")
    x_ND[bad, 0] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]), "value")
    assert Nnm().check(n, f) is None
    weights_NN = Nnm().weights(Matrix(x_ND), Step(n=n, f=f))
    expected, _ = naive_nnm(x_ND.numpy(), f, Step())
    for row, (weights_N, mixed) in enumerate(zip(weights_NN, expected, strict=True)):
        used = weights_N != 0
        assert weights_N[row] != 0
        assert used.sum() == n - f
        torch.testing.assert_close(weights_N[used], torch.full((n - f,), 1 / (n - f), dtype=torch.float64))
        if row not in bad:
            assert not used[bad].any()
            torch.testing.assert_close(weights_N[used] @ x_ND[used], torch.from_numpy(mixed))


@pytest.mark.parametrize(("n", "size", "sizes"), [(7, 2, [2, 2, 2, 1]), (6, 3, [3, 3]), (5, 9, [5]), (4, 1, [1] * 4)])
def test_buckets_hold_every_submission_once(n: int, size: int, sizes: list[int]) -> None:
    part, submissions = Bucketing(size=size), Matrix(normal(n, 3))
    weights_MN = part.weights(submissions, Step(n=n, f=1))
    assert (weights_MN != 0).sum(dim=1).tolist() == sizes
    assert (weights_MN != 0).sum(dim=0).tolist() == [1] * n
    torch.testing.assert_close(weights_MN.sum(dim=1), torch.ones(len(sizes), dtype=torch.float64))
    assert part.sizes(n, 1) == (len(sizes), 1)


def test_buckets_are_drawn_from_the_seed_anew_at_each_step() -> None:
    submissions = Matrix(normal(12, 3))
    drawn = [Bucketing().weights(submissions, Step(seed=s, number=k, n=12, f=1)) for s in (1, 2) for k in (0, 1)]
    again = [Bucketing().weights(submissions, Step(seed=s, number=k, n=12, f=1)) for s in (1, 2) for k in (0, 1)]
    for i, weights_MN in enumerate(drawn):
        assert torch.equal(weights_MN, again[i])
        assert not any(torch.equal(weights_MN, other_MN) for other_MN in drawn[:i])


# What a pipeline needs and promises


@pytest.mark.parametrize(
    ("pre", "rule", "n", "f", "reason"),
    [
        ([], "krum", 6, 2, "krum needs n >= 2f+3 = 7; got n = 6, f = 2"),
        (["nnm"], "median", 5, 2, None),
        (["nnm"], "average", 4, 2, "nnm needs n >= 2f+1 = 5; got n = 4, f = 2"),
        (["nnm"], "krum", 6, 2, "krum needs n >= 2f+3 = 7; got n = 6, f = 2"),
        (["bucketing"], "krum", 9, 1, None),
        (["bucketing"], "krum", 8, 1, "bucketing leaves n = 4: krum needs n >= 2f+3 = 5; got n = 4, f = 1"),
        ([THREES, "nnm"], "median", 12, 2, "bucketing leaves n = 4: nnm needs n >= 2f+1 = 5; got n = 4, f = 2"),
        (["bucketing", "nnm"], "krum", 12, 2, "bucketing leaves n = 6: krum needs n >= 2f+3 = 7; got n = 6, f = 2"),
        (
            ["bucketing", "bucketing"],
            "median",
            16,
            2,
            "bucketing leaves n = 4: median needs n >= 2f+1 = 5; got n = 4, f = 2",
        ),
    ],
)
def test_a_message_names_the_part(pre: list[Any], rule: str, n: int, f: int, reason: str | None) -> None:
    assert defence(pre, rule).check(n, f) == reason


def test_a_setup_refuses_a_pipeline_that_cannot_do(small_setup: Setup) -> None:
    expected = r"bucketing leaves n = 4: multi-krum needs n >= 2f\+3 = 7; got n = 4, f = 2"
    with pytest.raises(ValidationError, match=expected):
        small_setup.changed(pre=["bucketing"])


def test_the_label_and_the_sizes() -> None:
    whole = defence(["nnm", THREES], "trimmed-mean")
    assert whole.label() == "nnm+bucketing+trimmed-mean"
    assert defence([], "krum").label() == "krum"
    assert whole.sizes(20, 2) == (7, 2)
    assert [part.label() for part in whole.parts] == ["nnm", "bucketing", "trimmed-mean"]


class Promises(Median):
    def kappa(self, n: int, f: int) -> float:
        return n / 100 + f / 10


class Halves(PreAggregator):
    """The first half of the submissions, and half of the f; half of what follows is promised."""

    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        return torch.eye(submissions.n, dtype=torch.float64)[: submissions.n // 2]

    def sizes(self, n: int, f: int) -> tuple[int, int]:
        return n // 2, f // 2

    def kappa(self, kappa: float, n: int, f: int) -> float:
        return kappa / 2 + n


def test_the_robustness_coefficient_is_that_of_all_parts() -> None:
    """Each part is given the sizes that it meets: of 20 and 4, what halves leaves 10 and 2."""
    of_rule = 10 / 100 + 2 / 10
    assert Defence([], Promises()).kappa(20, 4) == 20 / 100 + 4 / 10
    assert Defence([Nnm()], Promises()).kappa(20, 4) == pytest.approx(8 * 4 / 16 * (0.6 + 1))
    assert Defence([Halves(), Nnm()], Promises()).kappa(20, 4) == pytest.approx(8 * 2 / 8 * (of_rule + 1) / 2 + 20)
    assert Defence([Nnm(), Halves()], Promises()).kappa(20, 4) == pytest.approx(8 * 4 / 16 * (of_rule / 2 + 20 + 1))
    assert math.isnan(Defence([Bucketing()], Promises()).kappa(20, 4))
    assert math.isnan(Defence([Nnm()], AGGREGATORS.parse("aksel")).kappa(20, 4))


def test_a_bound_is_known_of_a_rule_alone() -> None:
    assert Defence([], Krum()).bound(9, 2) == Krum().bound(9, 2)
    assert math.isnan(Defence([Nnm()], Krum()).bound(9, 2))


@pytest.mark.parametrize("part", ["nnm", "bucketing", THREES], ids=str)
def test_describe_and_parse_round_trip(part: Any) -> None:
    parsed = PREAGGREGATORS.parse(part)
    assert PREAGGREGATORS.parse(json.loads(json.dumps(parsed.describe()))) == parsed


def test_every_pre_aggregator_is_documented() -> None:
    for name, cls in PREAGGREGATORS.classes.items():
        assert cls.name == name
        assert "Reference: " in cls.__dict__["__doc__"], name


# Weights through a pipeline


class Ramp(Weighting):
    """Weights that sum to something else than 1."""

    def weights(self, submissions: Submissions, f: int) -> Tensor:
        return torch.linspace(0, 1, submissions.n, dtype=torch.float64)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("rule", [MultiKrum(), Ramp()], ids=lambda rule: rule.label())
def test_the_weight_of_byzantine_submissions_is_that_in_the_aggregate(pipeline: str, rule: Aggregator) -> None:
    n, f = 20, 1
    parts = [PREAGGREGATORS.parse(part) for part in PIPELINES[pipeline][0]]
    step, x_ND = Step(seed=5, n=n, f=f), normal(n, 30, 3)
    found = Defence(parts, rule).at(step, {})(Matrix(x_ND))
    # The aggregate of the unit vectors, with the same weights, is the weights: W^T w.
    submissions, products_MN, left_n, left_f = Matrix(x_ND), torch.eye(n, dtype=torch.float64), n, f
    for part in parts:
        rows = Matrix(products_MN @ x_ND)
        products_MN = part.weights(rows, Step(seed=5, n=left_n, f=left_f)) @ products_MN
        left_n, left_f = part.sizes(left_n, left_f)
    last = rule.step(Matrix(products_MN @ submissions.rows_ND), Step(n=left_n, f=left_f), {})[0].weights_N(left_n)
    assert last is not None
    expected_N = products_MN.T @ last
    weights_N = found.weights_N(n)
    assert weights_N is not None
    torch.testing.assert_close(weights_N, expected_N, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights_N @ x_ND, found.vector_D, rtol=1e-9, atol=1e-9)
    for byzantine in (1, 4):
        found_share = acceptance(found, n - byzantine, byzantine)
        torch.testing.assert_close(found_share, expected_N[n - byzantine :].sum().reshape(1), rtol=1e-12, atol=1e-12)


def test_acceptance_is_not_known_of_a_rule_that_tells_no_weights() -> None:
    for pre in ([], ["nnm"]):
        found = defence(pre, "median").at(Step(n=9, f=2), {})(Matrix(normal(9, 4)))
        assert found.weights_N(9) is None
        assert acceptance(found, 7, 2).isnan().all()


def test_acceptance_of_a_run_with_a_pipeline(small_setup: Setup) -> None:
    """The average over neighbours, in closed form: each mixture holds 5 of 7 submissions."""
    empire = {"name": "empire", "factor": 1e3}
    setup = small_setup.changed(pre=["nnm"], aggregator="average", attack=empire, steps=3)
    ratios = simulate(setup).metrics["Attack acceptation ratio"].to_numpy()
    # The two Byzantine ones are in each other's mixtures, with three honest ones; the honest ones are by themselves.
    np.testing.assert_allclose(ratios, 2 * 2 / 5 / 7, rtol=1e-12)


# The adversary


ATTACKS: list[Attack] = [
    Little(factor="searched"),
    Empire(factor="searched", negative=True),
    EmpireStrict(epsilon="searched"),
    Hidden(target="all"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.label())
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("rule", ["average", "median", "phocas", "multi-krum", "cge", "bulyan", "aksel"])
def test_a_searched_attack_maximises_the_harm_to_the_whole_pipeline(attack: Any, pipeline: str, rule: str) -> None:
    n, byzantine, f = 31, 1, 1
    whole = defence(PIPELINES[pipeline][0], rule)
    honest_HD = normal(n - byzantine, 12, 4) + 0.5
    mean_D = honest_HD.mean(dim=0)
    start_D, direction_D, _ = attack.line(spread(honest_HD), byzantine)
    step = Step(seed=3, number=2, n=n, f=f)
    bound = whole.at(step, {})

    def harm(x: Tensor) -> Tensor:
        rows_ND = torch.cat((honest_HD, (start_D + x * direction_D)[None]))
        return (naive(pipeline, whole.rule, rows_ND, step) - mean_D).square().sum()

    found_FD = attack(honest_HD, View(step, byzantine, bound, tuple(range(n - byzantine))))
    expected = maximise(harm, attack.evaluations)
    torch.testing.assert_close(found_FD, (start_D + expected * direction_D)[None], rtol=1e-9, atol=1e-9)
    assert harm(expected) >= harm(torch.zeros((), dtype=torch.float64))


class Slow(Aggregator):
    """The mean of all steps' means so far, counted in its state."""

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        return {"sum": torch.zeros_like(like_D), "count": torch.zeros((), dtype=torch.int64)}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        sum_D, count = state["sum"] + submissions.rows_ND.mean(dim=0), state["count"] + 1
        return Aggregate(sum_D / count), {"sum": sum_D, "count": count}


def test_a_search_advances_no_state(small_setup: Setup) -> None:
    searched = Little(factor="searched", evaluations=7)
    simulation = LocalSimulation(small_setup.changed(aggregator=Slow(), attack=searched), load_data(small_setup))
    for step in range(5):
        simulation.advance(step + 1)
        assert simulation.server.defence_state["count"] == step + 1


def test_what_is_asked_is_answered_from_the_state_before_the_step() -> None:
    rule, x_ND = Slow(), normal(7, 3)
    state = {"sum": normal(1, 3, 5)[0], "count": torch.tensor(4)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    for pre, rows_ND in (([], x_ND), ([Halves()], x_ND[:3])):
        bound = Defence(pre, rule).at(Step(n=7, f=2), state)
        for _ in range(3):
            expected_D = (before["sum"] + rows_ND.mean(dim=0)) / 5
            torch.testing.assert_close(bound(Matrix(x_ND)).vector_D, expected_D)
        assert all(torch.equal(state[name], before[name]) for name in before)


# The step that parts see


class Notes(Aggregator):
    """The mean; notes the sizes that it meets."""

    met: list[tuple[int, int, int]]

    def initial_state(self, step: Step, like_D: Tensor) -> State:
        self.met.append((-1, step.n, step.f))
        return {}

    def step(self, submissions: Submissions, step: Step, state: State) -> tuple[Aggregate, State]:
        self.met.append((submissions.n, step.n, step.f))
        return Aggregate(submissions.rows_ND.mean(dim=0)), state


def test_a_rule_meets_the_sizes_that_the_parts_before_it_leave() -> None:
    rule = Notes(met=[])
    whole = Defence([Halves(), Bucketing()], rule)
    step = Step(n=20, f=4)
    whole.initial_state(step, normal(1, 3)[0])
    whole.at(step, {})(Matrix(normal(20, 3)))
    assert rule.met == [(-1, 5, 2), (5, 5, 2)]


class Shuffles(PreAggregator):
    """An order of the submissions of its own, drawn under the name that bucketing uses."""

    def weights(self, submissions: Submissions, step: Step) -> Tensor:
        return torch.eye(submissions.n, dtype=torch.float64)[step.generator("bucketing").permutation(submissions.n)]


def test_what_a_class_of_the_users_own_draws_is_apart_from_what_byzray_draws() -> None:
    step, submissions = Step(seed=3, number=1, n=12, f=1), Matrix(normal(12, 3))
    own = Shuffles().weights(submissions, step.of(Shuffles()))
    assert not torch.equal(own, Shuffles().weights(submissions, step))
    assert torch.equal(own, Shuffles().weights(submissions, step.of(Shuffles())))
    expected = generator(3, f"{Shuffles.written()} bucketing", 1).permutation(12)
    assert own.argmax(dim=1).tolist() == expected.tolist()
    assert step.of(Bucketing()) is step
    # A defence asks each part so.
    found = Defence([Shuffles()], Ramp()).at(step, {})(Matrix(submissions.rows_ND)).weights_N(12)
    assert found is not None
    torch.testing.assert_close(found, own.T @ torch.linspace(0, 1, 12, dtype=torch.float64))
