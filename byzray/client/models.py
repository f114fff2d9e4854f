"""What the service takes and answers."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

State = Literal["starting", "waiting", "running", "stuck", "stopping", "paused", "cancelled", "finished", "failed"]
"""The states of a sweep.

`starting`: accepted, its driver has yet to start; `waiting`: for its turn on the cluster; `stuck`: its runs cannot be
placed on the cluster as it is; `stopping`: its runs are being saved; `paused` and `cancelled`: until it is resumed;
`failed`: it ended, and some of its runs failed.
"""

ENDED: tuple[State, ...] = ("cancelled", "finished", "failed")
"""The states in which a sweep computes nothing unless it is resumed."""

RunState = Literal["missing", "running", "interrupted", "failed", "stopped", "finished", "damaged"]

LARGEST_TEXT = 100_000

Priority = Annotated[int, Field(ge=-100, le=100, strict=True)]
AtOnce = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
PlainName = Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]*$", max_length=251)]
"""The name of a run or of one of its files: neither a path nor hidden."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Model(BaseModel):
    """Of all requests and answers; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Submission(Model):
    """A sweep to compute: one that is built in, by its name, or the text of a YAML file.

    Attributes:
        sweep: the name of a sweep that is built in: demo, paper or appendix.
        yaml: the text of a sweep or of a setup.
        name: what it is called; by default the name of a sweep that is built in, else `sweep`.
        only: conditions that select some of its setups, such as ``f == 24 and rate == 0.5``.
        seeds: replace the sweep's, such as ``1-5``.
        set: values that replace those of all setups, by dotted key, such as ``{"momentum.placement": "update"}``.
        workers_per_actor: the number of workers of each actor; by default each run is computed in one process.
        priority: among the sweeps of its owner; the highest is first.
        at_once: the largest number of runs at a time; by default as many as there is room for.
    """

    sweep: Annotated[str, Field(max_length=64)] | None = None
    yaml: Annotated[str, Field(max_length=LARGEST_TEXT)] | None = None
    name: Name | None = None
    only: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=20)] = []
    seeds: Annotated[str, Field(max_length=1000)] | None = None
    set: Annotated[dict[Annotated[str, Field(max_length=100)], Any], Field(max_length=50)] = {}
    workers_per_actor: AtOnce | None = None
    priority: Priority = 0
    at_once: AtOnce | None = None


class Change(Model):
    """What may be changed of a sweep that was submitted; what is left out stays as it is.

    Attributes:
        priority: among the sweeps of its owner.
        at_once: the largest number of runs at a time; null: as many as there is room for.
    """

    priority: Priority = 0
    at_once: AtOnce | None = None


class Resumption(Model):
    """How a sweep goes on.

    Attributes:
        mix_versions: whether it goes on even if its earlier runs were computed with other versions of byzray, PyTorch
            or NumPy.
    """

    mix_versions: StrictBool = False


class Plan(Model):
    """What a submission stands for.

    Attributes:
        id: of the sweep that it is or would be.
        name: its name.
        setups: how many setups it has.
        runs: how many runs.
        done: how many of them are done, if it was submitted before.
        seconds: an estimate of the time on the whole cluster; null if no similar runs were measured.
        without: how many runs the estimate leaves out, as no similar ones were measured.
    """

    id: str
    name: str
    setups: int
    runs: int
    done: int
    seconds: float | None
    without: int


class Counts(Model):
    """The runs of a sweep by state; they add up to `total`."""

    total: int
    done: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0


class RunProgress(Model):
    """A run that is being computed.

    Attributes:
        run: its name.
        step: the last step that it reported.
        steps: how many it has.
        accuracy: at its last evaluation.
        best_accuracy: the best so far.
        seconds_left: an estimate, if there is one.
    """

    run: str
    step: int
    steps: int
    accuracy: float | None = None
    best_accuracy: float | None = None
    seconds_left: float | None = None


class Sweep(Model):
    """A sweep and its progress.

    Attributes:
        id: names it; the same submission by the same owner has the same.
        name: what it is called.
        owner: who submitted it.
        state: see :data:`State`.
        why: why it waits, is stuck or has failed; else empty.
        submitted: when.
        runs: how many runs there are in each state.
        current: the runs that are being computed.
        steps_per_second: of all runs together.
        seconds_left: an estimate, if there is one.
        priority: among the sweeps of its owner.
        at_once: the largest number of runs at a time.
        versions: of the packages that it was first computed with.
    """

    id: PlainName
    name: str
    owner: str
    state: State
    why: str
    submitted: datetime
    runs: Counts
    current: list[RunProgress]
    steps_per_second: float | None
    seconds_left: float | None
    priority: int
    at_once: int | None
    versions: dict[str, str]


class Run(Model):
    """A run of a sweep.

    Attributes:
        run: its name, which is that of its directory.
        state: see :data:`RunState`.
        step: how many steps it took.
        steps: how many it has.
        accuracy: at its last evaluation.
        best_accuracy: the best so far.
        seconds: how long its steps took.
        reason: why it failed or was stopped or interrupted; else empty.
        setup: its setup.
    """

    run: PlainName
    state: RunState
    step: int
    steps: int
    accuracy: float | None
    best_accuracy: float | None
    seconds: float | None
    reason: str
    setup: dict[str, Any]


class File(Model):
    """A file of a run's directory.

    Attributes:
        name: its name.
        bytes: its size.
    """

    name: PlainName
    bytes: int


class Sweeps(Model):
    """A page of sweeps, the newest first; `next` is the `after` of the next page, null on the last."""

    items: list[Sweep]
    next: str | None


class Runs(Model):
    """A page of runs in the order of the plan; `next` is the `after` of the next page, null on the last."""

    items: list[Run]
    next: str | None


class Files(Model):
    """The files of a run."""

    items: list[File]


class Node(Model):
    """A node of the cluster, with its resources, such as ``{"CPU": 8.0}``."""

    address: str
    alive: bool
    resources: dict[str, float]


class Turn(Model):
    """A sweep on the cluster, of the service or any other.

    Attributes:
        id: of a sweep of the service; else empty.
        name: of the sweep.
        owner: whose it is.
        running: how many runs it computes.
        holds: what they reserve.
        waiting: how many runs wait for their turn.
        why: why they wait.
        stuck: whether they cannot be placed on the cluster as it is.
    """

    id: str
    name: str
    owner: str
    running: int
    holds: dict[str, float]
    waiting: int
    why: str
    stuck: bool


class Cluster(Model):
    """The cluster: its nodes, what of it is free, and who computes and waits."""

    nodes: list[Node]
    total: dict[str, float]
    free: dict[str, float]
    turns: list[Turn]


class Health(Model):
    """That the service answers, and its version."""

    status: Literal["ok"] = "ok"
    version: str


class Caller(Model):
    """Who asks: the name of the token, and whether it may change the sweeps of others."""

    name: str
    admin: bool


class Problem(Model):
    """Why a request was refused.

    Attributes:
        detail: one message.
        mistakes: every mistake of a submission, each with its place, the value and what was expected.
    """

    detail: str
    mistakes: list[str] = []
