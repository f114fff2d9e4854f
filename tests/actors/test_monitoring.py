"""Live metrics, as Ray exports them to Prometheus."""

import math
import os
import signal
import time
import urllib.request
from collections.abc import Callable

import ray

import actors
from actors import Fleet
from actors.publishing import COUNTERS, GAUGES
from byzray import Setup, Update
from byzray.runs.directory import RunDirectory

PATIENCE = 60.0

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exported() -> Series:
    """All series that begin with ray_byzray_, with those tags that are ours."""
    ours = {tag for _, tags in (GAUGES | COUNTERS).values() for tag in tags}
    found: Series = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            if line.startswith("ray_byzray_"):
                name, _, rest = line.partition("{")
                labels, _, value = rest.rpartition("} ")
                pairs = (label.partition("=") for label in labels.split('",'))
                tags = frozenset((key, text.strip('"')) for key, _, text in pairs if key in ours)
                found[name, tags] = float(value)
    return found


def wait_for(condition: Callable[[Series], bool]) -> Series:
    deadline = time.monotonic() + PATIENCE
    while not condition(found := exported()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def of_run(found: Series, setup: Setup) -> dict[tuple[str, str], float]:
    """The series of a run by name and what else they are tagged with, for short."""
    own = {"sweep": "", "run": RunDirectory.name(setup), "setup": setup.matchup(), "seed": str(setup.seed)}
    return {
        (name.removeprefix("ray_byzray_"), " ".join(sorted(dict(tags - own.items()).values()))): value
        for (name, tags), value in found.items()
        if own.items() <= tags
    }


def test_metrics_are_those_of_the_table(fleet: Fleet, small_setup: Setup) -> None:
    setup = small_setup.changed(actors=fleet.layout_for(small_setup.honest).model_dump(), seed=1234)
    seen: list[dict[tuple[str, str], float]] = []

    def look(update: Update) -> None:
        if update.step == 6 and not seen:
            found = wait_for(lambda series: of_run(series, setup).get(("step", "")) == 6)
            seen.append(of_run(found, setup))
            wait_for(lambda series: ("actor_step", "worker 0") in of_run(series, setup))

    result = actors.simulate(small_setup, seed=1234, fleet=fleet, progress=look)
    (during,) = seen
    row = result.metrics.iloc[5]
    assert during["running", ""] == 1
    assert during["steps", ""] == setup.steps
    assert during["loss", ""] == row["Average loss"]
    assert during["accuracy", ""] == result.evaluations.set_index("step")["accuracy"][6]
    assert during["best_accuracy", ""] == result.evaluations["accuracy"][:3].max()
    assert during["acceptance_ratio", ""] == row["Attack acceptation ratio"]
    for of, name in (("sampled", "Sampled"), ("submitted", "Honest")):
        ratio = row[f"{name} gradient deviation"] / row[f"{name} gradient norm"]
        assert math.isclose(during["variance_norm_ratio", of], ratio)
    assert during["variance_norm_bound", ""] == setup.aggregator.bound(setup.workers, setup.tolerated)
    spent = {key for name, key in during if name == "phase_seconds_total"}
    server = {f"{phase} server" for phase in ("attack", "aggregate", "gradient", "transfer", "study", "evaluate")}
    assert server <= {" ".join(sorted(key.split(), key=lambda word: word == "server")) for key in spent}
    assert {"gradient worker 0", "gradient worker 1", "gradient worker 2"} <= spent
    ended = wait_for(lambda series: of_run(series, setup).get(("running", "")) == 0)
    assert of_run(ended, setup)["step", ""] == setup.steps
    # Nothing is published any more, and Ray drops it.
    wait_for(lambda series: ("step", "") not in of_run(series, setup))


def test_actors_that_are_replaced_are_counted(ray_cluster: str, small_setup: Setup) -> None:
    setup = small_setup.changed(actors={"workers_per_actor": 5, "cpus_per_actor": 0.1}, seed=1235)
    with Fleet.for_setup(setup) as own:
        pending = [own.locations[1]["pid"]]

        def kill(update: Update) -> None:
            if update.step >= 3 and pending:
                os.kill(pending.pop(), signal.SIGKILL)

        actors.simulate(setup, fleet=own, progress=kill)
    found = wait_for(lambda series: ("restarts_total", "workers 0-4") in of_run(series, setup))
    assert of_run(found, setup)["restarts_total", "workers 0-4"] == 1
