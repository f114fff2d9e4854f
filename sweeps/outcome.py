"""Outcome: what a call of :func:`sweeps.run` computed."""

from dataclasses import dataclass, field
from html import escape

from byzray.setups import Setup


@dataclass(repr=False)
class Outcome:
    """What a call of :func:`sweeps.run` computed.

    Attributes:
        output: the folder or URI of its results.
        earlier: how many runs were done before the call.
        finished: how many runs the call finished.
        stopped: the runs that the scheduler stopped early.
        failed: the runs that failed, each with its reason.
        interrupted: whether the user stopped it.
        stranded: why it ended before all runs were computed, if the cluster no longer has room for them.
        seconds: how long it took, from the first trial's start on.
        busy: the share of that time in which its slots computed steps and evaluations of runs that it finished.
        slots: how many runs it computed at the same time.
    """

    output: str = ""
    earlier: int = 0
    finished: int = 0
    stopped: dict[str, Setup] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    stranded: str = ""
    seconds: float = 0.0
    busy: float = 0.0
    slots: int = 1

    @property
    def complete(self) -> bool:
        """Whether no run is left to compute."""
        return not (self.failed or self.interrupted or self.stranded)

    def _counts(self) -> dict[str, int]:
        return {
            "finished": self.finished,
            "done before": self.earlier,
            "stopped early": len(self.stopped),
            "failed": len(self.failed),
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self._counts().items() if count)
        ended = "interrupted, " * self.interrupted + f"{self.stranded}, " * bool(self.stranded)
        return f"<Outcome: {ended}{counts or 'no runs'}, in {self.output}>"

    def _repr_html_(self) -> str:
        cells = "".join(f"<td>{count} {what}</td>" for what, count in self._counts().items() if count)
        reasons = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in self.failed.items())
        table = f"<table><tr>{cells}<td>{escape(self.output)}</td></tr></table>"
        return table + f"<ul>{reasons}</ul>" * bool(reasons)
