"""Steps of a run in one process on a GPU, captured once as a CUDA graph and then replayed.

A step of the paper's MNIST setups is some 200 kernels that keep a GPU busy for well under a millisecond; the host needs
several to launch them one by one. A graph launches them all at once. What is replayed is what was captured, kernel by
kernel, so that results are the same to the bit.

Shapes in names: K workers, B examples a batch.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from byzray.aggregators import Aggregator
from byzray.cohort import Cohort
from byzray.server import Server

WARM_STEPS = 2
"""Steps of one kind that are taken as they come, before one is captured: libraries set themselves up in the first, and
a kind that soon ends is not worth a capture, which takes about as long as a step that is not captured."""

# Takes a step on the device and returns its row.
Step = Callable[[], Tensor]


class Kind(NamedTuple):
    """What is fixed in a captured step: steps of one kind differ in their examples and in the state alone."""

    rate: float
    rule: Aggregator


def captures(cohort: Cohort) -> bool:
    """Whether steps of this run are captured, if they are of the usual kind (see :meth:`StepGraphs.step`).

    They are on a GPU, where the training set is kept, for models in evaluation mode. A class of the user's own may read
    a value or count its calls, and what depends on the step is another at each: neither is ever captured.
    """
    setup = cohort.setup
    parts = [one for one in (setup.model, setup.attack, *setup.pre) if one is not None]
    free = any(not one.is_builtin() or getattr(one, "depends_on_step", False) for one in parts)
    # The server's own worker draws its batches on the host.
    return (
        not free and not setup.defence.root_examples and not setup.model.training and cohort.stream.examples.x.is_cuda
    )


def plain_step(cohort: Cohort, server: Server) -> Tensor:
    """Take a step of a cohort of all workers and of the server; returns its row, for the server to keep."""
    contribution = cohort.step(server.point(), server.step_number, server.trained_TD)
    return server.step_row([contribution])


class Replay(NamedTuple):
    """A captured step: what launches it, and where it leaves its row."""

    launch: Callable[[], None]
    row: Tensor


def capture(step: Step) -> Replay:
    """Capture a step as a CUDA graph. Nothing is computed until the graph is launched."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row = step()
    return Replay(graph.replay, row)


class StepGraphs:
    """Takes the steps of a cohort of all workers and of a server, captured where that is possible.

    Args:
        cohort: the workers.
        server: the server.
        capture: what captures a step.
    """

    def __init__(self, cohort: Cohort, server: Server, capture: Callable[[Step], Replay] = capture) -> None:
        self.cohort = cohort
        self.server = server
        self.device = server.device
        self.capture = capture
        self._replays: dict[Kind, Replay] = {}
        self._taken: Counter[Kind] = Counter()
        # The positions of a step's examples, and whether they are mirrored, by local steps: where a graph finds them.
        self._draws: list[tuple[Any, Any]] = []

    def step(self) -> None:
        """Take a step.

        It is captured unless it is out of the ordinary: the first of a run with a study, one from which submissions
        are missing, one that adds up the sum of past means anew, one whose rule computes on the host or is the user's
        own; and until :data:`WARM_STEPS` of its learning rate and rule were taken.
        """
        kind = self._kind()
        if kind is None or self._taken[kind] < WARM_STEPS:
            self.server.keep(plain_step(self.cohort, self.server))
            if kind is not None:
                self._taken[kind] += 1
        else:
            self.server.keep(self._captured(kind))

    def _captured(self, kind: Kind) -> Tensor:
        server = self.server
        server.watch.start()
        self._draw()
        # Those of earlier learning rates are not needed any more.
        self._replays = {one: replay for one, replay in self._replays.items() if one.rate == kind.rate}
        if kind in self._replays:
            server.count_replayed()
        else:
            self._replays[kind] = self.capture(self._step_with_draws)
        replay = self._replays[kind]
        replay.launch()
        row = replay.row.clone()
        server.watch.lap("captured step")
        return row

    def _kind(self) -> Kind | None:
        """The kind of the next step; None if it is not captured."""
        setup, step, past = self.cohort.setup, self.server.step_number, self.server.study.past
        rule = setup.aggregator.at_step(setup.seed, step)
        usual = past is None or (past.steps > 0 and not past.renews)
        free = rule.computes_on_host or rule.depends_on_step or not rule.is_builtin()
        if setup.missing_at(step) or free or not usual:
            return None
        return Kind(setup.rate_at(step), rule)

    def _draw(self) -> None:
        """Put the next step's draws where graphs find them. From pinned memory they are copied without waiting."""
        cohort, step = self.cohort, self.server.step_number
        drawn = [cohort.stream.draw(cohort.workers, step, local_step) for local_step in range(cohort.setup.local_steps)]
        if not self._draws:
            self._draws = [(_like(positions, self.device), _like(flips, self.device)) for positions, flips in drawn]
        for kept, new in zip(self._draws, drawn, strict=True):
            for there, here in zip(kept, new, strict=True):
                if there is not None and here is not None:
                    there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)

    def _step_with_draws(self) -> Tensor:
        """Take a step with the draws that lie ready; returns its row."""
        cohort, step = self.cohort, self.server.step_number
        cohort.give(step, [cohort.stream.examples.batch(*draw) for draw in self._draws])
        row = plain_step(cohort, self.server)
        cohort.give(step, [])  # they are part of the graph
        return row


def _like(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else torch.empty_like(tensor, device=device)
