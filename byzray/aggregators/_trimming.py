"""What rules that drop f values of every coordinate have in common."""

from byzray.aggregators._base import Aggregator, unmet


class Trimming(Aggregator):
    """A rule that drops f values at one end or at both."""

    def check(self, n: int, f: int) -> str | None:
        return (
            super().check(n, f)
            or unmet(f >= 1, f"f >= 1; got f = {f}")
            or unmet(n >= 2 * f + 1, f"n >= 2f+1 = {2 * f + 1}; got n = {n}, f = {f}")
        )
