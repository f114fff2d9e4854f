"""The dashboard of one run: how it learns, what the adversary achieves, where the time goes, and which actor lags."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import ValueMappingResult
from panels import ANY, CLOCK, LATE, Column, coloured, dashboard, graph, newest, number, rows, variable

# The gauges `running` + 2 * `diverged`.
STATES = {
    "0": ValueMappingResult("ended", "green"),
    "1": ValueMappingResult("running", "blue"),
    "2": ValueMappingResult("diverged", "red"),
    "3": ValueMappingResult("diverging", "red"),
}


def build() -> Dashboard:
    some = 'sweep=~"$sweep"'
    return dashboard(
        "run",
        "How one run learns, what the adversary achieves, where the time goes, and which actor lags.",
        "sweep",
        [
            variable("sweep", "Sweep", 'ray_byzray_step{sweep!=""}', everything=True),
            variable("setup", "Setup", f"ray_byzray_step{{{some}}}", everything=True),
            variable("seed", "Seed", f'ray_byzray_step{{{some}, setup=~"$setup"}}', everything=True),
            variable("run", "Run", f'ray_byzray_step{{{some}, setup=~"$setup", seed=~"$seed"}}', everything=False),
        ],
        {
            "Progress": progress(),
            "Learning": learning(),
            "Adversary": adversary(),
            "Time": time_spent(),
            "Actors": actors(),
        },
    )


def of_run(metric: str, more: str = "") -> str:
    return f'ray_byzray_{metric}{{run="$run"{more}}}'


def progress() -> list[Any]:
    step, steps, pace = (f"max({of_run(metric)})" for metric in ("step", "steps", "steps_per_second"))
    state = f"max({of_run('running')}) + 2 * max({of_run('diverged')})"
    moved = f"(timestamp({of_run('step')}) and changes({of_run('step')}[30s]) > 0)[$__range:5s]"
    best = f"max({of_run('best_accuracy')})"
    restarts = f"sum({of_run('restarts_total')}) or vector(0)"
    return [
        number(
            "State",
            "*Running* with a last step minutes ago: it hangs, or its process was killed.",
            state,
            units.Short,
            span=3,
            texts=STATES,
        ),
        number(
            "Last step",
            "Time since the last step. Ray reports every ten seconds, so half a minute is normal.",
            f"time() - max(max_over_time({moved}))",
            units.Seconds,
            steps=LATE,
            span=3,
        ),
        number("Step", "Steps taken.", step, units.Short, span=3),
        number("Done", "Share of its steps taken so far.", f"{step} / {steps}", units.PercentUnit, span=3),
        number("Steps a second", "Over the last second or so.", pace, units.Short, 1, span=3),
        number("Time left", "At that pace.", f"({steps} - {step}) / {pace}", CLOCK, span=3),
        number("Best accuracy", "Highest so far.", best, units.PercentUnit, 1, span=3),
        number("Restarts", "Actors that were lost and replaced.", restarts, units.Short, steps=ANY, span=3),
    ]


def learning() -> list[Any]:
    return [
        graph(
            "Accuracy",
            "On the test set, at each evaluation.",
            [("accuracy", f"max({of_run('accuracy')})"), ("best so far", f"max({of_run('best_accuracy')})")],
            units.PercentUnit,
            1,
            span=8,
            top=1,
        ),
        graph(
            "Loss",
            "Average loss of the honest workers in the last step. Not finite if its line ends before the run.",
            [("loss", f"max({of_run('loss')})")],
            units.Short,
            3,
            span=8,
        ),
        graph(
            "Steps",
            "Steps taken. A straight line is good; a drop is a return to a checkpoint.",
            [("step", f"max({of_run('step')})"), ("of", f"max({of_run('steps')})")],
            units.Short,
            0,
            span=8,
        ),
    ]


def adversary() -> list[Any]:
    ratio = f"max by (of) ({of_run('variance_norm_ratio')})"
    return [
        graph(
            "Variance-norm ratio",
            "Deviation over norm of the gradients that honest workers *sampled*, and of what they *submitted*. The "
            "rule is proven to work where the latter is below the *bound*; momentum at the workers lowers it. Some "
            "rules have no bound.",
            [("{{of}}", ratio), ("bound", f"max({of_run('variance_norm_bound')})")],
            units.Short,
            3,
            logarithmic=True,
            colors={"bound": "red"},
        ),
        graph(
            "Byzantine share of what the rule selected",
            "Of the submissions that the rule selected in the last step, the share that Byzantine workers sent. "
            "Unknown for rules that do not select.",
            [("Byzantine", f"max({of_run('acceptance_ratio')})")],
            units.PercentUnit,
            0,
            top=1,
        ),
    ]


def time_spent() -> list[Any]:
    seconds = of_run("phase_seconds_total", ', actor=~"run|server"')
    spent = f"sum by (phase) (rate({seconds}[$__rate_interval]))"
    pace = f"scalar(max(deriv({of_run('step')}[$__rate_interval]) > 0))"
    return [
        graph(
            "Where the time goes",
            "Share of the run's time, by phase; the rest to 100 % is recording and control. On a fleet "
            "*gradient* is the slowest worker's, and *transfer* the rest of the server's wait.",
            [("{{phase}}", spent)],
            units.PercentUnit,
            0,
            stacked=True,
        ),
        graph(
            "Time of a step",
            "The same, divided by the steps per second.",
            [("{{phase}}", f"{spent} / {pace}")],
            units.Seconds,
            stacked=True,
        ),
    ]


def actors() -> list[Any]:
    computing = of_run("phase_seconds_total", ', phase="gradient", actor=~"worker.*"')
    gradients = f"sum by (actor) (rate({computing}[$__rate_interval]))"
    step = newest(of_run("actor_step"), "actor")
    reported = f"time() - max by (actor) (max_over_time(timestamp({of_run('actor_step')})[$__range:5s]))"
    restarts = f"sum by (actor) (max_over_time({of_run('restarts_total')}[$__range]))"
    return [
        rows(
            "Actors",
            "Each actor of the run's fleet; a run in one process has none. They report their step from time to time, "
            "so all appear some steps apart. A run that does not advance waits for the actor that is *behind*, or "
            "for one whose process is gone, so that its *last report* is old.",
            ["actor"],
            [
                Column("step", step),
                Column("behind", f"scalar(max({step})) - {step}"),
                Column("last report", reported, units.Seconds, 0, coloured(LATE)),
                Column("computes gradients", gradients, units.PercentUnit, 0),
                Column("restarts", restarts, look=coloured(ANY)),
            ],
            "behind",
        ),
        graph(
            "Time in gradients by actor",
            "Share of the time in which each worker actor computes. One far above the others slows the run down.",
            [("{{actor}}", gradients)],
            units.PercentUnit,
            0,
        ),
        graph(
            "Step of each actor",
            "The lines coincide. One that ends, or stays flat, belongs to an actor that hangs.",
            [("{{actor}}", f"max by (actor) ({of_run('actor_step')})")],
            units.Short,
            0,
        ),
    ]
