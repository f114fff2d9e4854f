"""benchmarks/rules.py calls every rule that needs no more than submissions and f, and what is made of its figures."""

import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import page
import peers
import rules

SHAPE = (11, 40, 2)


def peer(rule: str, call: peers.Call, form: peers.Form = peers.matrix) -> peers.Peer:
    """One that has a rule, which it says is ours."""
    return peers.Peer("byzfl", "0", {rule: peers.Entry(call, lambda n, f: peers.ours()[rule], form=form)})


def outcome(seconds: float, definition: str = "") -> dict[str, Any]:
    return {"seconds": [seconds], "difference": 0.0, "definition": definition, "hindered": None}


@pytest.mark.parametrize("rule", rules.RULES)
def test_every_rule_is_timed(rule: str) -> None:
    found = rules.compare(rule, [], SHAPE, repeats=1)
    assert list(found) == [rules.OURS]
    assert found[rules.OURS]["hindered"] is None
    assert found[rules.OURS]["difference"] in (0.0, None)
    assert found[rules.OURS]["seconds"]


def test_every_pre_aggregator_and_rule_of_the_field_is_among_them() -> None:
    assert {*rules.OF_KRUM, "centred-clipping", "dnc", "smea", "caf", "sign-majority"} <= {*rules.RULES}
    assert set(rules.OF_KRUM) == {"nnm", "bucketing", "monna", "clipping", "arc", "geometric-median"}
    assert peers.refuses("smea", 51, 12)
    assert not any(peers.refuses(rule, 25, 5) for rule in rules.RULES)


def test_what_writes_into_its_input_gets_a_copy_for_every_call() -> None:
    given = []

    def clipping(rows_ND: Any, f: int) -> Any:
        given.append(rows_ND.copy())
        for i, row_D in enumerate(rows_ND):
            rows_ND[i] = row_D * min(1, 2 / torch.linalg.vector_norm(torch.from_numpy(row_D)).item())
        return list(torch.from_numpy(rows_ND))

    found = rules.compare("clipping", [peer("clipping", clipping, peers.copied_array)], SHAPE, repeats=2)["byzfl"]
    assert len(found["seconds"]) == 2
    assert not rules.wrong(found)
    assert len(given) == 3
    assert all((one == given[0]).all() for one in given)


def test_a_single_wrong_row_of_a_pre_aggregator_is_noticed() -> None:
    def nnm(rows_ND: torch.Tensor, f: int) -> torch.Tensor:
        mixed_ND = peers.ours()["nnm"](rows_ND, f)
        mixed_ND[3] += 1e-4 * mixed_ND[3].norm()
        return mixed_ND

    assert rules.wrong(rules.compare("nnm", [peer("nnm", nnm)], SHAPE, repeats=1)["byzfl"])


def test_a_call_that_does_not_end_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "LIMIT_SECONDS", 0.2)
    calls = count()

    def caf(rows_ND: torch.Tensor, f: int) -> torch.Tensor:
        while next(calls) > 1:  # the third one
            pass
        return peers.ours()["caf"](rows_ND, f)

    found = rules.compare("caf", [peer("caf", caf)], SHAPE, repeats=3)
    assert found["byzfl"]["seconds"] == []
    assert found["byzfl"]["hindered"] == "over 0.2 s"
    assert len(found[rules.OURS]["seconds"]) == 3


def test_pre_aggregators_are_probed_near_consensus_alone() -> None:
    for rule in ("nnm", "median"):
        found = rules.probe(rule, [])[rules.OURS]
        assert found["error"] < rules.PROBE_TOLERANCE
        assert found["survives"] is (True if rule == "median" else None)


def test_standing() -> None:
    times = {"krum": 1.0, "nnm": 2.0, "arc": 4.0, "median": 3.0}
    compared = [
        {"rule": rule, "n": n, "d": 40, "f": 2, "contenders": {rules.OURS: outcome(n * seconds)}}
        for n in (11, 13)
        for rule, seconds in times.items()
    ]
    compared[1]["contenders"]["byzfl"] = outcome(11.0, "in an order of its own")
    compared[2]["contenders"]["byzfl"] = outcome(440.0)
    summary = rules.summary(compared, {})
    assert [(one["rule"], one["n"], one["peer"], one["ratio"]) for one in summary["faster peers"]] == [
        ("nnm", 11, "byzfl", 0.5)
    ]
    assert [(one["rule"], one["n"], one["times"]) for one in summary["times krum"]] == [
        ("nnm", 11, 2.0),
        ("arc", 11, 4.0),
        ("nnm", 13, 2.0),
        ("arc", 13, 4.0),
    ]
    figures = {"environment": {}, "versions": {"byzfl": "0"}, "absent": {}, "rules": compared}
    figures |= {"probes": {"nnm": {rules.OURS: {"error": 0.1, "survives": None}}}, "summary": summary}
    text = page.rules_section(figures)
    assert "Faster than byzray: byzfl's nnm at n = 11 (0.50 of our time, defined otherwise)." in text
    assert "In multiples of its krum's time, byzray's take at n = 11 and 13: nnm 2.0 and 2.0, arc 4.0 and 4.0." in text
    assert "| nnm | 0.1 |  |" in text


def test_rows_of_the_figure_are_the_rules_of_all_shapes() -> None:
    cases = [
        {"rule": rule, "contenders": {rules.OURS: outcome(1.0), "byzfl": outcome(2.0)}} for rule in ("krum", "nnm")
    ]
    ax = page.Figure().subplots()
    page.draw_rules(ax, cases, ["krum", "smea", "nnm"], ["byzfl"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["krum", "smea", "nnm"]
    assert [line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [2.0]] == [0, 2]
