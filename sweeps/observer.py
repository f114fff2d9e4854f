"""Observer: receives the progress of a sweep while it runs, and can stop it."""

from sweeps.progress import Progress


class Observer:
    """Receives the progress of a sweep while it runs. This one does nothing; a subclass overrides what it needs.

    If there is anything to compute, :meth:`begin` and :meth:`end` are called in the thread that called
    :func:`sweeps.run`, and the others between them, mostly in another thread.
    """

    def begin(self, title: str, progress: Progress) -> None:
        """The sweep starts; `progress` is updated from now on."""

    def run_ended(self, run: str, outcome: str) -> None:
        """A run finished, failed or was stopped early; `run` is the name of its directory."""

    def message(self, text: str) -> None:
        """A message for the user."""

    def refresh(self) -> None:
        """Called several times a second."""

    def stop_asked(self) -> bool:
        """Whether to save all running trials and end the sweep. Called several times a second."""
        return False

    def end(self) -> None:
        """All trials have ended."""
