"""Every attack against the vectors of the published code and its definition; the search against a transcript."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor

from byzray.aggregators import AGGREGATORS, Aggregator, Cge, Median, TrimmedMean
from byzray.aggregators.centred_clipping import CentredClipping
from byzray.attacks import ATTACKS, AntiCge, AnyAttack, Attack, Empire, EmpireStrict, Hidden, Little, View, maximise
from byzray.attacks._search import _lowered
from byzray.defence import Defence
from byzray.step import Step
from byzray.submissions import Matrix

VECTORS = [Path(__file__).parents[1] / "vectors"]
if "BYZRAY_VECTORS" in os.environ:
    VECTORS.append(Path(os.environ["BYZRAY_VECTORS"]))

OUR_RULES = {"krum": "multi-krum", "trmean": "trimmed-mean", "brute": "minimum-diameter"}
OUR_ATTACKS = {"bulyan": "hidden", "anticge": "anti-cge"}

VARIANTS = [
    "little",
    {"name": "little", "factor": "searched", "evaluations": 5},
    {"name": "little", "factor": "searched", "negative": False},
    "empire",
    {"name": "empire", "factor": 2, "negative": True},
    {"name": "empire", "factor": "searched"},
    "empire-strict",
    {"name": "empire-strict", "epsilon": "searched"},
    "hidden",
    {"name": "hidden", "factor": 2.0, "target": 3, "negative": True},
    {"name": "hidden", "factor": "searched", "target": "all"},
    "anti-cge",
    "nan",
]
ALL = pytest.mark.parametrize("attack", [ATTACKS.parse(v) for v in VARIANTS], ids=[str(v) for v in VARIANTS])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def normal(h: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(h, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


DIMENSION = 12  # of what a rule with a state is given


def against(rule: Aggregator, honest: int, byzantine: int, f: int) -> View:
    """What the adversary sees apart from the honest submissions, of a defence that is a rule alone."""
    step = Step(n=honest + byzantine, f=f)
    defence = Defence([], rule)
    state = defence.initial_state(step, torch.zeros(DIMENSION, dtype=torch.float64))
    return View(step, byzantine, defence.at(step, state), tuple(range(honest)))


def cge_rows(honest_HD: Tensor, attack_FD: Tensor) -> set[int]:
    return set(Cge().rows(Matrix(torch.cat((honest_HD, attack_FD))), 2).tolist())


def parse_published(case: dict) -> Attack:
    name = OUR_ATTACKS.get(case["attack"], case["attack"])
    options = {"target" if key == "target_idx" else key: value for key, value in case["args"].items()}
    if name in ("little", "empire", "hidden"):
        options.setdefault("negative", False)
    for key in ("factor", "epsilon"):
        if options.get(key, 0) < 0:
            options |= {key: "searched", "evaluations": -options[key]}
    return ATTACKS.parse({"name": name, **options})


@pytest.mark.parametrize("directory", VECTORS, ids=str)
def test_vectors(directory: Path) -> None:
    cases = json.loads((directory / "attacks.json").read_text())
    arrays = np.load(directory / "attacks.npz")
    assert cases
    for case in cases:
        where = f"case {case['id']}, {case['attack']}"
        rule = AGGREGATORS.parse(OUR_RULES.get(case["aggregator"], case["aggregator"]))
        honest_HD = torch.from_numpy(arrays[case["input"]])
        byzantine, f = case["real_byzantine"], case["declared_byzantine"]
        attack = parse_published(case)
        assert attack.check(case["honest"], byzantine, f) is None, where
        found_FD = attack(honest_HD, against(rule, len(honest_HD), byzantine, f))
        assert found_FD.shape == (byzantine, honest_HD.shape[1]), where
        expected_D = arrays[case["output"]]
        for row_D in found_FD:
            np.testing.assert_allclose(
                row_D.numpy(), expected_D, rtol=0, atol=1e-9 * abs(expected_D).max(), err_msg=where
            )


# Definitions


@DTYPES
def test_fixed_factors(dtype: torch.dtype) -> None:
    honest_HD = normal(6, 9, dtype=dtype) + 1
    a, s = honest_HD.double().mean(dim=0), honest_HD.double().std(dim=0)
    unit = torch.eye(9, dtype=torch.float64)
    expected = [
        (Little(), a - 1.5 * s),
        (Little(negative=False, factor=2), a + 2 * s),
        (Empire(), -0.1 * a),
        (Empire(negative=True), 2.1 * a),
        (EmpireStrict(), -a),
        (EmpireStrict(epsilon=0.5), -0.5 * a),
        (Hidden(factor=3), a + 3 * unit[8]),
        (Hidden(factor=3, target=2, negative=True), a - 3 * unit[2]),
        (Hidden(factor=3, target=-9), a + 3 * unit[0]),
        (Hidden(factor=3, target="all"), a + 3),
    ]
    for attack, vector_D in expected:
        for row_D in attack(honest_HD, against(Median(), 6, 2, 2)):
            torch.testing.assert_close(row_D.double(), vector_D, rtol=1e-6, atol=1e-6, msg=str(attack))


@pytest.mark.parametrize("target", [9, -10])
def test_a_target_beyond_the_dimension_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=rf"\(d = 9\), got target = {target}"):
        Hidden(target=target)(normal(4, 9), against(Median(), 4, 1, 1))


@DTYPES
@pytest.mark.parametrize("d", [3, 257, 20_000])
def test_anti_cge_points_away_from_the_least_honest_at_the_norm_of_the_next(dtype: torch.dtype, d: int) -> None:
    for seed in range(20):
        honest_HD = normal(9, d, seed, dtype)
        attack_FD = AntiCge()(honest_HD, against(Cge(), 9, 2, 2))
        ranked = honest_HD.double().norm(dim=1).argsort()
        # At that norm rounding decides, as published, whether the attack or the honest submission is selected.
        assert set(ranked[:7].tolist()) <= cge_rows(honest_HD, attack_FD) <= {9, 10, *ranked.tolist()}
        assert {9, 10} <= cge_rows(honest_HD, attack_FD * (1 - 1e-5))
        selected = honest_HD[ranked[:7]].double().sum(dim=0) + honest_HD[ranked[0]].double()
        assert torch.cosine_similarity(attack_FD[0].double(), selected, dim=0) == pytest.approx(-1)
        limit = honest_HD[ranked[7]].double().norm()
        assert attack_FD[0].double().norm().item() == pytest.approx(limit.item(), rel=1e-6)


def test_anti_cge_at_its_limits() -> None:
    honest_HD = normal(3, 5)
    assert AntiCge()(honest_HD, against(Cge(), 3, 3, 2)).isnan().all()
    assert not AntiCge()(torch.zeros(3, 5), against(Cge(), 3, 1, 1)).any()
    alone_FD = AntiCge()(honest_HD, against(Cge(), 3, 1, 3))  # none but the Byzantine ones is selected
    least_D = honest_HD[honest_HD.norm(dim=1).argmin()]
    torch.testing.assert_close(alone_FD[0], -least_D)


@ALL
@DTYPES
def test_the_input_is_not_modified(attack: Attack, dtype: torch.dtype) -> None:
    honest_HD = normal(9, 7, dtype=dtype)
    before_HD = honest_HD.clone()
    found_FD = attack(honest_HD, against(TrimmedMean(), 9, 2, 2))
    assert torch.equal(honest_HD, before_HD)
    assert found_FD.dtype is dtype
    assert found_FD.shape == (2, 7)
    assert torch.equal(found_FD[0], found_FD[1]) or attack.name == "nan"
    found_FD[0].fill_(12345)
    assert torch.equal(honest_HD, before_HD)


def test_nan() -> None:
    assert ATTACKS.parse("nan")(normal(3, 4), against(Median(), 3, 2, 1)).isnan().all()


# The search


def transcript(value: Callable[[float], float], evaluations: int) -> tuple[float, list[float]]:
    """The search as its definition tells it, phase by phase; also all that it evaluated."""
    seen = [0.0]
    best, best_value, step = 0.0, value(0.0), 1.0
    proposal = 0.0
    while len(seen) < evaluations:
        proposal = best + step
        seen.append(proposal)
        if (proposed := value(proposal)) > best_value:
            best, best_value, step = proposal, proposed, 2 * step
        else:
            step *= 0.8
            break
    while len(seen) < evaluations:
        if proposal < best:
            proposal = proposal + step
        else:
            last, back = proposal, step
            proposal = last - back
            while proposal < 0:  # by the step halved, whose last digit is not lost, rather than by means of the two
                back /= 2
                proposal = last - back
        seen.append(proposal)
        if (proposed := value(proposal)) > best_value:
            best, best_value = proposal, proposed
        step *= 0.8
    return best, seen


def maximised(value: Callable[[float], float], evaluations: int) -> float:
    """The search, on plain numbers."""
    return maximise(lambda x: torch.tensor(value(x.item()), dtype=x.dtype), evaluations).item()


@settings(max_examples=200, deadline=None)
@given(
    peak=st.floats(-1, 60),
    jump=st.floats(0, 60),
    height=st.floats(-500, 500),
    evaluations=st.integers(1, 40),
)
def test_the_search_is_the_one_defined(peak: float, jump: float, height: float, evaluations: int) -> None:
    seen: list[float] = []

    def value(x: float) -> float:
        seen.append(x)
        return -((x - peak) ** 2) + (height if x > jump else 0)

    found = maximised(value, evaluations)
    evaluated = list(seen)
    expected, expected_evaluated = transcript(value, evaluations)
    assert [found, *evaluated] == [expected, *expected_evaluated]
    assert len(evaluated) == evaluations
    assert min(evaluated) == 0
    assert value(found) == max(map(value, evaluated))


@settings(max_examples=300, deadline=None)
@given(outcomes=st.lists(st.one_of(st.integers(0, 9).map(float), st.sampled_from([math.nan, math.inf])), min_size=1))
def test_the_search_is_the_one_defined_whatever_the_values(outcomes: list[float]) -> None:
    """The values depend on nothing but the order of the evaluations, so that every course of a search is met."""

    coming = iter(outcomes)
    seen: list[float] = []
    found = maximised(lambda x: seen.append(x) or next(coming), len(outcomes))  # type: ignore[func-returns-value]
    coming = iter(outcomes)
    expected, expected_seen = transcript(lambda x: next(coming), len(outcomes))
    assert [found, *seen] == [expected, *expected_seen]


def test_a_step_far_beyond_the_last_x_is_halved_until_it_is_not() -> None:
    def lowered(x: float, step: float) -> float:
        return _lowered(torch.tensor(x, dtype=torch.float64), torch.tensor(step, dtype=torch.float64)).item()

    assert lowered(0, 1) == lowered(0, 1e300) == 0
    assert lowered(3, 1) == 2
    assert lowered(1, 1) == lowered(1, 2) == lowered(0.75, 3) == lowered(1e-300, 1e-300 * 2.0**900) == 0
    assert lowered(1, 3) == 0.25
    assert lowered(1, 3 * 2.0**200) == 0.25


def test_the_search_by_hand() -> None:
    """Up to 3 by doubling, too far at 7, then back and forth with steps 3.2, 2.56, 2.048."""
    seen: list[float] = []
    found = maximised(lambda x: seen.append(x) or -abs(x - 3.5), 7)  # type: ignore[func-returns-value]
    assert seen == pytest.approx([0, 1, 3, 7, 3.8, 1.24, 3.288])
    assert found == pytest.approx(3.288)


def test_the_search_bears_nan() -> None:
    assert maximised(lambda x: math.nan, 10) == 0
    assert maximised(lambda x: math.nan if x > 2 else x, 10) == pytest.approx(1.9632)  # of 1.4, 0.12, 1.144, ...


SEARCHED = [
    Little(factor="searched", negative=True),
    Little(factor="searched", negative=False, evaluations=7),
    Empire(factor="searched"),
    Empire(factor="searched", negative=True, evaluations=25),
    EmpireStrict(epsilon="searched"),
    Hidden(),
    Hidden(negative=True, target="all"),
]


# Those that one step of one rule asks for nothing but the submissions.
RULES = [name for name, rule in AGGREGATORS.classes.items() if name != "random-mixture" and not rule().root_examples]


@pytest.mark.parametrize("attack", SEARCHED, ids=str)
@pytest.mark.parametrize("rule", [AGGREGATORS.parse(name) for name in RULES], ids=RULES)
def test_searched_attacks(attack: Attack, rule: Aggregator) -> None:
    honest_HD = normal(9, DIMENSION, 4) + 0.5
    a, s = honest_HD.mean(dim=0), honest_HD.std(dim=0)

    def vector(t: float) -> Tensor:
        t = -t if getattr(attack, "negative", False) else t
        match attack:
            case Little():
                return a + t * s
            case Empire():
                return (1 - t) * a
            case EmpireStrict():
                return -t * a
        assert isinstance(attack, Hidden)
        return a + t if attack.target == "all" else torch.cat((a[:-1], a[-1:] + t))

    def harm(t: float) -> float:
        return float((rule(torch.stack([*honest_HD, vector(t), vector(t)]), 2) - a).norm() ** 2)

    found_FD = attack(honest_HD, against(rule, 9, 2, 2))
    t, _ = transcript(harm, attack.evaluations)  # type: ignore[attr-defined]
    harmed = float((rule(torch.cat((honest_HD, found_FD)), 2) - a).norm() ** 2)
    assert harmed == pytest.approx(harm(t), rel=1e-9, abs=1e-12)
    if not isinstance(rule, CentredClipping):  # which clips: far out all points do the same harm, but for rounding
        torch.testing.assert_close(found_FD, vector(t).expand(2, -1), rtol=0, atol=1e-9 * max(1, t))


# Checks and options


def test_check() -> None:
    assert Little().check(1, 1, 1) == "needs honest >= 2; got honest = 1"
    assert Little().check(2, 1, 1) is None
    assert AntiCge().check(2, 3, 3) == "needs f <= honest; got f = 3, honest = 2"
    assert AntiCge().check(2, 2, 2) is None
    assert AntiCge().check(2, 4, 3) is None
    assert Empire().check(1, 1, 1) is None


@ALL
def test_describe_and_parse_round_trip(attack: Attack) -> None:
    assert ATTACKS.parse(json.loads(json.dumps(attack.describe()))) == attack


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "little", "factor": 0},
        {"name": "little", "factor": -16},
        {"name": "little", "factor": "1.5"},
        {"name": "little", "factor": True},
        {"name": "little", "factor": math.inf},
        {"name": "little", "factor": math.nan},
        {"name": "little", "target": 1},
        {"name": "empire", "evaluations": 0},
        {"name": "empire", "evaluations": 2.5},
        {"name": "empire", "negative": 1},
        {"name": "empire-strict", "factor": 1.0},
        {"name": "empire-strict", "epsilon": -1.0},
        {"name": "hidden", "target": "some"},
        {"name": "hidden", "target": 1.0},
        {"name": "hidden", "target": True},
        {"name": "anti-cge", "factor": 1.0},
        {"name": "nan", "evaluations": 3},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ATTACKS.parse(wrong)


def test_every_attack_is_documented() -> None:
    for name, cls in ATTACKS.classes.items():
        assert cls.name == name
        assert cls.__dict__["__doc__"].splitlines()[0].endswith("."), name


class Holder(BaseModel):
    attack: AnyAttack


def test_a_field_of_any_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "byzray_test_attacks.py").write_text(
        "from byzray.attacks import Attack\n\n\n"
        "class Flip(Attack):\n"
        "    times: float = 1.0\n\n"
        "    def __call__(self, honest_HD, view):\n"
        "        return (-self.times * honest_HD.mean(dim=0)).expand(view.byzantine, -1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    written = {"name": "byzray_test_attacks:Flip", "times": 2.0}
    held = Holder.model_validate({"attack": written})
    honest_HD = normal(5, 3)
    torch.testing.assert_close(held.attack(honest_HD, against(Median(), 5, 1, 1))[0], -2 * honest_HD.mean(dim=0))
    assert held.model_dump() == {"attack": written}
    assert Holder.model_validate({"attack": "little"}).attack == Little()
    with pytest.raises(ValidationError, match="did you mean 'little'"):
        Holder.model_validate({"attack": "litle"})
    with pytest.raises(ValidationError, match="is no attack"):
        Holder.model_validate({"attack": "byzray.aggregators:Median"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: run the tests where there is one")
@ALL
def test_cuda_agrees_with_the_cpu(attack: Attack) -> None:
    honest_HD = normal(9, 12)
    found_FD = attack(honest_HD.cuda(), against(TrimmedMean(), 9, 2, 2))
    assert found_FD.is_cuda
    torch.testing.assert_close(found_FD.cpu(), attack(honest_HD, against(TrimmedMean(), 9, 2, 2)), equal_nan=True)
