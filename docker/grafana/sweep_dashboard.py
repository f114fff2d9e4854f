"""The dashboard of a sweep: what runs, how far and how fast it is, and what is stuck or failed."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from panels import (
    ANY,
    BAR,
    CLOCK,
    LATE,
    PLAIN,
    Column,
    bars,
    coloured,
    dashboard,
    graph,
    newest,
    number,
    rows,
    variable,
)

RUN = "sweep, setup, seed, run"
STATES = {"waiting": "text", "running": "blue", "done": "green", "failed": "red"}


def build() -> Dashboard:
    return dashboard(
        "sweep",
        "What runs, how far and how fast it is, what is stuck or failed. Click on a run for its details.",
        "run",
        [variable("sweep", "Sweep", 'ray_byzray_step{sweep!=""}', everything=True)],
        {
            "Progress": progress(),
            "Runs under way": runs_under_way(),
            "Trouble": trouble(),
            "Results so far": results(),
            "Cluster": cluster(),
        },
    )


def of_sweep(metric: str) -> str:
    return f'ray_byzray_{metric}{{sweep=~"$sweep"}}'


def under_way(metric: str) -> str:
    """A metric of the runs that are being computed."""
    running = f"max by (run) ({of_sweep('running')}) == 1"
    return f"max by ({RUN}) ({of_sweep(metric)}) and on (run) ({running})"


def idle() -> str:
    """Seconds since runs that have not ended took a step, or were first seen."""
    step = of_sweep("step")
    moved = f"max by ({RUN}) (max_over_time((timestamp({step}) and changes({step}[30s]) > 0)[1h:5s]))"
    seen = f"min by ({RUN}) (min_over_time(timestamp({step})[1h:5s]))"
    ended = f"{newest(of_sweep('running'), 'run', '1h')} == 0"
    return f"(time() - ({moved} or {seen})) unless on (run) ({ended})"


def ended_early(metric: str) -> str:
    """A metric of the runs that have ended, but not at their last step."""

    def highest(name: str) -> str:
        return f"max by ({RUN}) (max_over_time({of_sweep(name)}[$__range]))"

    ended = f"{newest(of_sweep('running'), 'run')} == 0"
    return f"{highest(metric)} and on (run) ({highest('step')} < {highest('steps')}) and on (run) ({ended})"


def best_by_kind(aggregate: str) -> str:
    """Best accuracies of runs whose names differ in their seed and digest only."""
    best = f"max by (run) (max_over_time({of_sweep('best_accuracy')}[$__range]))"
    return f'{aggregate} by (kind) (label_replace({best}, "kind", "$1", "run", "(.*)-seed[0-9]+-[0-9a-f]+"))'


def progress() -> list[Any]:
    states = f"sum by (state) (max by (sweep, state) ({of_sweep('runs')}))"

    def runs(state: str) -> str:
        return f'sum(max by (sweep, state) (ray_byzray_runs{{sweep=~"$sweep", state=~"{state}"}}))'

    pace = 'sum(max by (sweep) (deriv(ray_byzray_runs{sweep=~"$sweep", state="done"}[10m])))'
    left = f"{runs('waiting|running')} / ({pace} > 0)"
    return [
        number(
            "Runs",
            "How many runs of the sweep are in which state. A run counts as failed after its last retry.",
            states,
            units.Short,
            legend="{{state}}",
            colors=STATES,
            span=8,
        ),
        number("Done", "Share of the planned runs.", f"{runs('done')} / {runs('.+')}", units.PercentUnit),
        number("Runs a minute", "Finished, over the last ten minutes.", f"60 * {pace}", units.Short, 1),
        number(
            "Time left",
            "For the waiting and active runs, at the pace of the last ten minutes. Unknown until some finish.",
            left,
            CLOCK,
        ),
        number(
            "Steps a second",
            "Of all runs under way together.",
            f"sum({under_way('steps_per_second')})",
            units.Short,
            1,
        ),
        graph(
            "Runs by state",
            "*Done* should grow steadily. If it does not while some are *running*, check *Trouble*.",
            [("{{state}}", states)],
            units.Short,
            0,
            stacked=True,
            colors=STATES,
        ),
        graph(
            "Pace by setup",
            "Steps a second of one run: the average over the runs under way of each rule and attack.",
            [("{{setup}}", f"avg by (setup) ({under_way('steps_per_second')})")],
            units.Short,
            1,
        ),
    ]


def runs_under_way() -> list[Any]:
    step, steps, pace = (under_way(metric) for metric in ("step", "steps", "steps_per_second"))
    return [
        rows(
            "Runs under way",
            "Progress of each run, and the time left at its current pace. Click on its name for details.",
            ["run", "setup", "seed", "sweep"],
            [
                Column("progress", f"({step}) / ({steps})", units.PercentUnit, 0, BAR),
                Column("step", step),
                Column("steps", steps),
                Column("steps/s", pace, decimals=1),
                Column("time left", f"(({steps}) - ({step})) / ({pace})", CLOCK),
                Column("loss", under_way("loss"), decimals=3),
                Column("accuracy", under_way("accuracy"), units.PercentUnit, 1),
                Column("best accuracy", under_way("best_accuracy"), units.PercentUnit, 1),
            ],
            "progress",
        )
    ]


def trouble() -> list[Any]:
    restarts = f"sum by ({RUN}, actor) (max_over_time({of_sweep('restarts_total')}[$__range]))"
    return [
        rows(
            "Stuck?",
            "The runs under way with the longest time since their last step. Ray reports every ten seconds, so half a "
            "minute is normal. Minutes mean that a run hangs or replaces an actor, or that its process was killed.",
            ["run", "setup", "seed"],
            [Column("without a step for", f"topk(20, {idle()})", units.Seconds, 0, coloured(LATE))],
            "without a step for",
            span=12,
        ),
        rows(
            "Ended before their last step",
            "Runs that failed, diverged, were stopped early or interrupted, and are not computed now. The reason: "
            "`status.json` and `error.txt` in the run's directory.",
            ["run", "setup", "seed"],
            [Column("step", ended_early("step")), Column("of", ended_early("steps"))],
            "step",
            ascending=True,
            span=12,
        ),
        rows(
            "Restarts",
            "Actors that were lost and replaced. Single ones cost little; if there are many, check the memory below.",
            ["run", "actor"],
            [Column("restarts", f"topk(20, {restarts})", look=coloured(ANY))],
            "restarts",
            span=12,
            height=8,
        ),
        bars(
            "Slowest runs",
            "The runs under way with the fewest steps a second.",
            "{{setup}} seed {{seed}}",
            f"bottomk(10, {under_way('steps_per_second')})",
            units.Short,
            1,
            PLAIN,
            12,
        ),
    ]


def results() -> list[Any]:
    return [
        rows(
            "Best accuracy by kind of run",
            "The best test accuracies that runs reached within the dashboard's time range, over their seeds and over "
            "options that are not in their names, such as the learning rate. The worst are first.",
            ["kind"],
            [
                Column("mean", best_by_kind("avg"), units.PercentUnit, 1, BAR),
                Column("lowest", best_by_kind("min"), units.PercentUnit, 1),
                Column("highest", best_by_kind("max"), units.PercentUnit, 1),
                Column("runs", best_by_kind("count")),
            ],
            "mean",
            ascending=True,
            span=14,
            height=10,
        ),
        graph(
            "Accuracy of the runs under way",
            "Test accuracy at the last evaluation: the average over the runs under way of each rule and attack.",
            [("{{setup}}", f"avg by (setup) ({under_way('accuracy')})")],
            units.PercentUnit,
            1,
            span=10,
            top=1,
        ).height(10),
    ]


def cluster() -> list[Any]:
    def share(title: str, about: str, expr: str, legend: str = "{{ip}}") -> Any:
        return graph(title, f"By node. {about}", [(legend, expr)], units.PercentUnit, 0, span=6, top=1)

    used = "sum by (NodeAddress) (ray_object_store_used_memory)"
    store = 'sum by (NodeAddress) (ray_resources{Name="object_store_memory"})'
    return [
        share("CPU", "A sweep should keep it near 100 %.", "max by (ip) (ray_node_cpu_utilization) / 100"),
        share(
            "Memory",
            "Above 95 % Ray kills actors: give Ray fewer CPUs, or pack more workers into an actor.",
            "max by (ip) (ray_node_mem_used) / max by (ip) (ray_node_mem_total)",
        ),
        share(
            "Object store",
            "Holds each data set once. What does not fit is written to disk.",
            f"{used} / {store}",
            "{{NodeAddress}}",
        ),
        share(
            "Disk",
            "The disk with Ray's temporary folder.",
            "max by (ip) (ray_node_disk_utilization_percentage) / 100",
        ),
        graph(
            "Actors",
            "Living actors by class. A run on a fleet has a server and its workers.",
            [("{{Name}}", 'sum by (Name) (ray_actors{Source="gcs", State="ALIVE"})')],
            units.Short,
            0,
        ),
        graph(
            "CPUs",
            "Reserved by trials and their actors, and free, over all nodes.",
            [("{{State}}", 'sum by (State) (ray_resources{Name="CPU"})')],
            units.Short,
            1,
            stacked=True,
        ),
    ]
