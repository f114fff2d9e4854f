"""The two claims of the paper's abstract, judged by what has been computed so far."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from byzray.report.paper.intervals import share_interval
from byzray.report.tables import SLACK

Verdict = Literal["confirmed", "refuted", "not yet decidable", "not decidable"]

# From the numbers of effective pairs, of successes among them and of unknown pairs.
Judge = Callable[[int, int, int], Verdict]

EFFECTIVE = 0.2
"""An attack is effective if it costs at least this much of the best accuracy (a share of 1)."""

ALWAYS = "momentum at the workers always raises the best accuracy"
MOSTLY = "momentum at the workers wins back at least 20 points in more than 60 % of the cases"


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim for some pairs of placements.

    Attributes:
        claim: what is claimed to hold where the attack costs at least 20 points of the best accuracy.
        scope: which pairs, in words; empty if there is none.
        verdict: the conclusion; `not decidable`: no pair is open, and in none does the attack cost enough.
        effective: in how many decided pairs the attack costs at least 20 points.
        successes: in how many of those the claim's condition holds.
        unknown: how many pairs are undecided.
        explanation: why this verdict.
        worst: the case that speaks most against the claim; empty if none does.
        interval: the 95 % interval of the share of successes, see :mod:`byzray.report.paper.intervals`; none without
            effective pairs.
    """

    claim: str
    scope: str
    verdict: Verdict
    effective: int
    successes: int
    unknown: int
    explanation: str
    worst: str
    interval: tuple[float, float] | None = None

    @property
    def where(self) -> str:
        """The words that follow the verdict."""
        return f" for {self.scope}" if self.scope else ": there is no pair of placements here"


def always(effective: int, successes: int, unknown: int) -> Verdict:
    """Whether every effective pair is a success, given that some pairs are unknown."""
    if not effective and not unknown:
        return "not decidable"
    if successes < effective:
        return "refuted"
    return "not yet decidable" if unknown else "confirmed"


def mostly(effective: int, successes: int, unknown: int) -> Verdict:
    """Whether successes make up more than 60 % of the effective pairs, whatever the unknown ones turn out to be."""
    if not effective and not unknown:
        return "not decidable"
    # In whole numbers, so that exactly 60 % is not more than 60 %. At worst every unknown pair is effective and no
    # success, at best it is both.
    if 5 * successes > 3 * (effective + unknown):
        return "confirmed"
    return "refuted" if 5 * (successes + unknown) <= 3 * (effective + unknown) else "not yet decidable"


def judge(pairs: pd.DataFrame, whole: int | None = None) -> list[Judgement]:
    """Both claims for these pairs, and for the whole sweep if that has more.

    Args:
        pairs: a table of :func:`byzray.report.tables.pairs_table`.
        whole: how many pairs the complete sweep has, if these are a part of one.
    """
    decided = pairs[pairs["decided"]]
    here = {0: "", 1: "this 1 pair"}.get(len(pairs), f"these {len(pairs)} pairs")
    scopes = [(here, len(pairs) - len(decided))]
    if whole is not None and whole > len(pairs):
        scopes.append((f"the whole sweep of {whole} pairs", whole - len(decided)))
    costly = decided["cost"] >= EFFECTIVE - SLACK
    claims: list[tuple[str, Judge, pd.Series]] = [
        (ALWAYS, always, decided["gain"] > SLACK),
        (MOSTLY, mostly, decided["gain"] >= EFFECTIVE - SLACK),
    ]
    intervals = [share_interval(decided, costly, holds) for _, _, holds in claims]
    return [
        replace(_judgement(claim, scope, verdict, decided[costly], holds[costly], open_), interval=interval)
        for scope, open_ in scopes
        for (claim, verdict, holds), interval in zip(claims, intervals, strict=True)
    ]


def _judgement(
    claim: str, scope: str, judge: Judge, effective: pd.DataFrame, success: pd.Series, unknown: int
) -> Judgement:
    count, successes = len(effective), int(success.sum())
    verdict = judge(count, successes, unknown)
    if count:
        did = "it raised the best accuracy" if claim == ALWAYS else "it won back at least 20 points"
        words = (
            f"The attack cost at least 20 points in {count} decided pair{'s' * (count != 1)}; "
            f"in {successes} of them ({100 * successes / count:.1f} %) {did}"
        )
    elif not scope:
        words = "A pair is the same attacked setup and seed with momentum in the update and at the workers"
    else:
        words = "In no decided pair did the attack cost at least 20 points, so there is nothing to judge by"
    words += f"; {unknown} pair{'s are' if unknown != 1 else ' is'} undecided." if unknown else "."
    return Judgement(claim, scope, verdict, count, successes, unknown, words, _worst(effective[~success]))


def _worst(failures: pd.DataFrame) -> str:
    if not len(failures):
        return ""
    worst = failures.sort_values("gain").iloc[0]
    return (
        f"{worst['rule']} under {worst['attack']}, {worst['panel']}, seed {worst['seed']}: "
        f"cost {100 * worst['cost']:.1f}, gain {100 * worst['gain']:+.1f} points"
    )
