"""How far the share of pairs for which a claim holds may be off.

Shapes in names: R resamples, P pairs of placements.
"""

import numpy as np
import pandas as pd

RESAMPLES, LEVEL = 10_000, 0.95


def share_interval(pairs: pd.DataFrame, counts: pd.Series, succeeds: pd.Series) -> tuple[float, float] | None:
    """The bootstrap interval, by percentiles, of the share of successes among the pairs that count.

    What is drawn with replacement are pairs, that is setups with both placements, each with all its seeds, which are no
    independent observations of the setups of a grid.

    Args:
        pairs: decided pairs, a table of :func:`byzray.report.tables.pairs_table`.
        counts: which of its rows count: those in which the attack is effective.
        succeeds: in which of its rows the claim holds.

    Returns:
        the ends of the interval, shares of 1; none where no pair counts.

    Reference: A. Davison, D. Hinkley. Bootstrap Methods and their Application, section 3.8.
    """
    if not counts.any():
        return None
    of_pairs = pd.DataFrame({"pair": pairs["pair"], "counted": counts, "succeeded": counts & succeeds})
    sums = of_pairs.groupby("pair")[["counted", "succeeded"]].sum()
    drawn_RP = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    counted_R, succeeded_R = (sums[name].to_numpy()[drawn_RP].sum(axis=1) for name in ("counted", "succeeded"))
    shares_R = succeeded_R[counted_R > 0] / counted_R[counted_R > 0]
    low, high = np.quantile(shares_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
