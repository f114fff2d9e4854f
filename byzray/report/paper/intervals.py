"""How far the share of pairs for which a claim holds may be off.

Shapes in names: R resamples, P pairs of placements, S seeds.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES, LEVEL = 4000, 0.95


def share_interval(pairs: pd.DataFrame, counts: pd.Series, succeeds: pd.Series) -> tuple[float, float] | None:
    """The bootstrap interval, by percentiles, of the share of successes among the pairs that count.

    Pairs (setups with both placements) are drawn with replacement, and for each of them its seeds: both placements and
    the reference of a seed stay together. With one seed only pairs are drawn.

    Args:
        pairs: decided pairs, a table of :func:`byzray.report.tables.pairs_table`.
        counts: which of its rows count: those in which the attack is effective.
        succeeds: in which of its rows the claim holds.

    Returns:
        the ends of the interval, shares of 1; none where no pair counts.

    Reference: B. Efron, R. Tibshirani. An Introduction to the Bootstrap, chapters 8 and 13.
    """
    if not counts.any():
        return None
    first = pairs.assign(counts=counts, succeeds=counts & succeeds).groupby("pair")
    seeds_P = first.size().to_numpy()
    counts_PS, succeeds_PS = (_padded(first[name], seeds_P) for name in ("counts", "succeeds"))
    rng = np.random.default_rng(0)
    counted_R, succeeded_R = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for r in range(RESAMPLES):
        drawn_P = rng.integers(len(seeds_P), size=len(seeds_P))
        drawn_PS = rng.integers(seeds_P[drawn_P][:, None], size=counts_PS.shape)
        here_PS = np.arange(counts_PS.shape[1]) < seeds_P[drawn_P][:, None]
        counted_R[r] = (counts_PS[drawn_P[:, None], drawn_PS] & here_PS).sum()
        succeeded_R[r] = (succeeds_PS[drawn_P[:, None], drawn_PS] & here_PS).sum()
    shares_R = succeeded_R[counted_R > 0] / counted_R[counted_R > 0]
    low, high = np.quantile(shares_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _padded(groups: "pd.api.typing.SeriesGroupBy", seeds_P: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """The values of each pair's seeds in a row, (P, S)."""
    padded_PS = np.zeros((len(seeds_P), seeds_P.max()), dtype=bool)
    for row, (_, values) in zip(padded_PS, groups, strict=True):
        row[: len(values)] = values
    return padded_PS
