"""Observer: who is informed of a sweep while it runs, and may ask for its end."""

from sweeps.progress import Progress


class Observer:
    """Is informed of a sweep while it runs. This one does nothing; a subclass overrides what it needs.

    All methods are called in the thread that called :func:`sweeps.run`.
    """

    def begin(self, title: str, progress: Progress) -> None:
        """The first trials are about to start; `progress` changes from now on."""

    def run_ended(self, run: str, outcome: str) -> None:
        """A run finished, failed or was stopped early; `run` is the name of its directory."""

    def message(self, text: str) -> None:
        """Something that the user should know."""

    def refresh(self) -> None:
        """Called several times a second."""

    def stop_asked(self) -> bool:
        """Whether the sweep shall end, with all runs under way saved. Asked several times a second."""
        return False

    def end(self) -> None:
        """No trial runs any more."""
