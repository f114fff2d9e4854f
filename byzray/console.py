"""Consoles that print text as it is, and durations as they show them."""

import math

from rich.console import Console


def plain_console(*, stderr: bool) -> Console:
    """A console on standard error or output that colours, replaces and wraps nothing in a text."""
    return Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Hours, minutes, seconds; days where there are many."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h" if days else f"{hour}:{minute:02}:{second:02}"
