"""Consoles that print text as it is."""

from rich.console import Console


def plain_console(*, stderr: bool) -> Console:
    """A console on standard error or output that colours, replaces and wraps nothing in a text."""
    return Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True)
