"""Grafana's dashboards: as generated, and each query against a Prometheus that scrapes Ray while runs go on."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pandas as pd
import pytest
import ray
from ruamel.yaml import YAML

import actors
from actors import Fleet
from actors.fleet import split
from byzray import Setup
from byzray.mistakes import Interrupted
from byzray.recording.update import Update
from byzray.runs.directory import RunDirectory
from byzray.setups import Actors

DOCKER = Path(__file__).parents[2] / "docker"
GRAFANA = DOCKER / "grafana"
DASHBOARDS = {name: json.loads((GRAFANA / f"dashboards/{name}.json").read_text()) for name in ("sweep", "run")}

PATIENCE = 120.0
RANGE = 1800  # seconds that a dashboard shows
WORDS = re.compile(r"\$(?:(\w+)|\{(\w+)(?::(\w+))?\})")


def needs(program: str) -> pytest.MarkDecorator:
    reason = f"needs `{program}` on PATH: apt-get install prometheus"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def yaml(path: str) -> Any:
    return YAML(typ="safe").load(DOCKER / path)


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


# The files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(GRAFANA)
    import generate_dashboards

    return generate_dashboards


@pytest.mark.parametrize("name", DASHBOARDS)
def test_what_is_committed_is_what_is_generated(generate: Any, name: str) -> None:
    generated = generate.render(generate.DASHBOARDS[name]())
    assert (GRAFANA / f"dashboards/{name}.json").read_text() == generated, "run generate_dashboards.py"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_types_read_it_and_lose_nothing(name: str) -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read = Dashboard.from_json(DASHBOARDS[name])
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == DASHBOARDS[name]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_described_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        columns = range(place.get("x", 0), place.get("x", 0) + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels(DASHBOARDS[name]))
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)


def links(dashboard: Mapping[str, Any]) -> Iterator[str]:
    yield from (link["url"] for link in dashboard["links"])
    for panel in panels(dashboard):
        for override in panel["fieldConfig"]["overrides"]:
            for each in override["properties"]:
                if each["id"] == "links":
                    yield from (link["url"] for link in each["value"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_links_lead_to_the_other_dashboard_and_its_variables(name: str) -> None:
    known = {dashboard["uid"]: dashboard for dashboard in DASHBOARDS.values()}
    grafanas = {"__value", "__url_time_range"}
    for url in links(DASHBOARDS[name]):
        assert set(re.findall(r"\$\{(\w+)", url)) <= grafanas | set(variables(DASHBOARDS[name]))
        if url.startswith("${ray}/#/"):
            continue
        uid, asked = re.fullmatch(r"/d/([\w-]+)\?(.*)", url).groups()  # type: ignore[union-attr]
        passed = re.findall(r"var-(\w+)=|(\w+):queryparam", asked)
        assert {first or second for first, second in passed} <= set(variables(known[uid]))


def test_grafana_is_given_what_the_dashboards_and_ray_ask_for() -> None:
    (source,) = yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    services = yaml("compose.yaml")["services"]
    head = services["head"]["environment"]
    assert (head["RAY_PROMETHEUS_NAME"], head["RAY_PROMETHEUS_HOST"]) == (source["name"], source["url"])
    assert head["RAY_GRAFANA_DATA_DASHBOARD_UID"] == DASHBOARDS["sweep"]["uid"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (ours,) = yaml("grafana/provisioning/dashboards/1-byzray.yaml")["providers"]
    assert mounts["./grafana/dashboards"] == ours["options"]["path"]
    (rays,) = yaml("grafana/provisioning/dashboards/2-ray.yaml")["providers"]
    assert rays["options"]["path"].startswith(f"{mounts['ray']}/session_latest/metrics/grafana/dashboards/")


# The queries --------------------------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus process on the loopback interface that scrapes all nodes of the cluster every two seconds."""

    def __init__(self, folder: Path) -> None:
        targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
        scraped = [{"job_name": "ray", "static_configs": [{"targets": targets}]}]
        config = folder / "prometheus.json"  # which is YAML, too
        config.write_text(json.dumps({"global": {"scrape_interval": "2s"}, "scrape_configs": scraped}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen([*command, f"--web.listen-address={self.address}"], stdout=log, stderr=log)

    def get(self, path: str, **parameters: str | float) -> Any:
        with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}") as answer:
            return json.load(answer)["data"]

    def ready(self) -> bool:
        try:
            return bool(self.get("targets")["activeTargets"])
        except URLError:
            return False

    def value(self, query: str) -> float:
        (result,) = self.get("query", query=query)["result"]
        return float(result["value"][1])


@pytest.fixture
def prometheus(ray_cluster: str, tmp_path: Path) -> Iterator[Prometheus]:
    process = Prometheus(tmp_path)
    try:
        wait_for(process.ready)
        yield process
    finally:
        process.process.terminate()
        process.process.wait(PATIENCE)


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, holds
        time.sleep(0.2)


@dataclass
class Viewer:
    """Asks what Grafana asks when a dashboard is opened."""

    prometheus: Prometheus
    dashboard: Mapping[str, Any]
    chosen: dict[str, str] = field(default_factory=dict)

    def filled(self, text: str, step: float) -> str:
        """With variables and macros replaced, as Grafana's data source for Prometheus does."""
        macros = {"__range": f"{RANGE}s", "__rate_interval": f"{4 * step:.0f}s"}

        def fill(word: re.Match[str]) -> str:
            name = word[1] or word[2]
            if name.isdecimal():  # of label_replace
                return word[0]
            return macros[name] if name in macros else self.value(name)

        return WORDS.sub(fill, text)

    def value(self, name: str) -> str:
        variable, chosen = variables(self.dashboard)[name], self.chosen[name]
        if not variable.get("includeAll"):
            return re.sub(r"([\\'\"])", r"\\\1", chosen)
        # It may stand for many, so it is a regular expression.
        return variable["allValue"] if chosen == "$__all" else re.sub(r"([\\^$*+?.()|\[\]{}'])", r"\\\\\1", chosen)

    def options(self, name: str) -> list[str]:
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variables(self.dashboard)[name]["query"]["query"])
        assert query is not None
        now = time.time()
        matched = {"match[]": self.filled(query[1], 0), "start": now - RANGE, "end": now}
        return list(self.prometheus.get(f"label/{query[2]}/values", **matched))

    def series(self, target: Mapping[str, Any], step: float) -> list[dict[str, Any]]:
        query, now = self.filled(target["expr"], step), time.time()
        if target.get("instant"):
            return list(self.prometheus.get("query", query=query, time=now)["result"])
        window = {"start": now - RANGE, "end": now, "step": step}
        return list(self.prometheus.get("query_range", query=query, **window)["result"])

    def empty(self, seen: set[str]) -> list[str]:
        """The queries that never gave a series with a finite value; those that did join `seen`."""
        source = yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
        step = float(source["jsonData"]["timeInterval"].removesuffix("s"))
        for panel in panels(self.dashboard):
            for target in panel["targets"]:
                name = f"{panel['title']} {target['refId']}: {target['expr']}"
                if name not in seen and any(map(finite, self.series(target, step))):
                    seen.add(name)
        names = (
            f"{panel['title']} {each['refId']}: {each['expr']}"
            for panel in panels(self.dashboard)
            for each in panel["targets"]
        )
        return [name for name in names if name not in seen]


def finite(series: Mapping[str, Any]) -> bool:
    points = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in points)


# What runs report in ten minutes, every 5 s. After five minutes one hangs, one is killed and one fails; two go on in a
# second process, after the first was killed or interrupted.
LIVES = """
ray_byzray_step{run="steady"} 0+5x120
ray_byzray_running{run="steady"} 1x120
ray_byzray_step{run="hung"} 0+5x60 300x60
ray_byzray_running{run="hung"} 1x120
ray_byzray_step{run="killed"} 0+5x60 stale
ray_byzray_running{run="killed"} 1x60 stale
ray_byzray_step{run="failed"} 0+5x60 300x4 stale
ray_byzray_running{run="failed"} 1x60 0x4 stale
ray_byzray_step{run="revived", WorkerId="1"} 0+5x40 stale
ray_byzray_running{run="revived", WorkerId="1"} 1x40 stale
ray_byzray_step{run="revived", WorkerId="2"} _x50 0+5x70
ray_byzray_running{run="revived", WorkerId="2"} _x50 1x70
ray_byzray_step{run="resumed", WorkerId="1"} 0+5x40 200x4 stale
ray_byzray_running{run="resumed", WorkerId="1"} 1x40 0x4 stale
ray_byzray_step{run="resumed", WorkerId="2"} _x50 200+5x70
ray_byzray_running{run="resumed", WorkerId="2"} _x50 1x70
"""


@needs("promtool")
def test_stuck_and_failed_runs_are_told_from_others(tmp_path: Path) -> None:
    series = [line.rpartition("} ")[::2] for line in LIVES.strip().splitlines()]
    runs = {name: f'ray_byzray_steps{{run="{name}"' for name in re.findall(r'step{run="(\w+)', LIVES)}
    inputs = [
        {"series": f"{name}}}", "values": values}
        for name, values in [*series, *((n, "1000x120") for n in runs.values())]
    ]
    queries = {panel["title"]: panel["targets"][0]["expr"] for panel in panels(DASHBOARDS["sweep"])}
    stuck, ended = queries["Stuck?"], queries["Ended before their last step"]
    expected = {
        f"({stuck}) > 240": ["hung", "killed"],
        f"({stuck}) < 60": ["steady", "revived", "resumed"],
        ended: ["failed"],
    }
    asked = [
        {
            "expr": f"group by (run) ({query.replace('$sweep', '.*').replace('$__range', '1h')})",
            "eval_time": "10m",
            "exp_samples": [{"labels": f'{{run="{run}"}}', "value": 1} for run in found],
        }
        for query, found in expected.items()
    ]
    tests = [{"interval": "5s", "input_series": inputs, "promql_expr_test": asked}]
    (tmp_path / "tests.json").write_text(json.dumps({"tests": tests}))
    checked = subprocess.run(["promtool", "test", "rules", tmp_path / "tests.json"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# A run that is done soon, one that fails after a while, and one that lasts.
SWEEP = """
base:
  dataset: {name: npz, path: %s}
  model: {name: mlp, hidden: [4]}
  batch_size: 4
  learning_rate: 0.1
  workers: 7
  byzantine: 2
  attack: little
  evaluation_interval: 100
together:
  - aggregator: [multi-krum, "watched_rules:Failing", "watched_rules:Unhurried"]
    steps: [1000, 1000000, 1000000]
reference: false
"""

RULE = """
import time
from byzray.aggregators import Median, MultiKrum

BEGAN = []


class Unhurried(MultiKrum):
    def rows(self, submissions, f):
        time.sleep(0.01)
        return super().rows(submissions, f)


class Failing(Median):
    def aggregate(self, submissions, f):
        BEGAN.append(time.monotonic())
        if BEGAN[-1] - BEGAN[0] > 6:
            raise ZeroDivisionError("the rule gave up")
        time.sleep(0.01)
        return super().aggregate(submissions, f)
"""


@pytest.fixture
def sweep(ray_cluster: str, small_data: Path, tmp_path: Path) -> Iterator[Path]:
    """A sweep as a user runs it, which goes on until it is stopped; the folder of its runs."""
    (tmp_path / "watched_rules.py").write_text(RULE)
    (tmp_path / "watched.yaml").write_text(SWEEP % small_data)
    address = ray.get_runtime_context().gcs_address
    command = [
        Path(sys.executable).with_name("byzray"),
        "sweep",
        "watched.yaml",
        "--address",
        address,
        "--retries",
        "0",
    ]
    with (tmp_path / "sweep.log").open("wb") as log:
        process = subprocess.Popen([*command, "--cpus", "2.5"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield tmp_path / "results/watched/runs"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


class WatchedRun(threading.Thread):
    """A run on a fleet, one of whose workers is killed, which goes on until it is stopped."""

    def __init__(self, setup: Setup, fleet: Fleet, output: Path) -> None:
        super().__init__()
        self.setup, self.fleet, self.output = setup, fleet, output
        self.victims = [fleet.locations[1]["pid"]]
        self.stopped = threading.Event()

    def run(self) -> None:
        with contextlib.suppress(Interrupted):
            actors.simulate(self.setup, fleet=self.fleet, output=self.output, progress=self.show)

    def show(self, update: Update) -> bool:
        if update.step > 100 and self.victims:
            os.kill(self.victims.pop(), signal.SIGKILL)
        return self.stopped.is_set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join(PATIENCE)


@needs("prometheus")
def test_every_query_gives_series_which_agree_with_the_files(
    prometheus: Prometheus, sweep: Path, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with Fleet("watched", split(5, 5), Actors(cpus_per_actor=0.1)) as fleet:
        setup = small_setup.changed(
            aggregator="watched_rules:Unhurried", steps=1_000_000, actors=fleet.layout_for(5).model_dump()
        )
        name = RunDirectory.name(setup)
        viewers = [
            Viewer(prometheus, DASHBOARDS["sweep"], {"sweep": "$__all"}),
            Viewer(prometheus, DASHBOARDS["run"], {"sweep": "$__all", "setup": "$__all", "seed": "1", "run": name}),
        ]
        with WatchedRun(setup, fleet, tmp_path):
            wait_for(lambda: name in viewers[1].options("run"))
            wait_for(lambda: "watched" in viewers[0].options("sweep"))
            seen: set[str] = set()
            deadline = time.monotonic() + PATIENCE
            while missing := [query for viewer in viewers for query in viewer.empty(seen)]:
                assert time.monotonic() < deadline, "\n".join(missing)
                time.sleep(1)
    finished = [
        path for path in sweep.iterdir() if json.loads((path / "status.json").read_text())["state"] == "finished"
    ]
    assert finished
    for folder in (tmp_path / name, *finished):
        compare(prometheus, folder)


def compare(prometheus: Prometheus, folder: Path) -> None:
    """The last values that were scraped with the last rows of a run's tables."""

    def scraped(metric: str, more: str = "") -> float:
        return prometheus.value(f'last_over_time(ray_byzray_{metric}{{run="{folder.name}"{more}}}[{RANGE}s])')

    wait_for(lambda: scraped("running") == 0)
    step = json.loads((folder / "status.json").read_text())["step"]
    assert scraped("step") == step
    row = pd.read_csv(folder / "metrics.csv").set_index("Step number").loc[step - 1]
    assert scraped("loss") == pytest.approx(row["Average loss"])
    assert scraped("acceptance_ratio") == pytest.approx(row["Attack acceptation ratio"])
    for of, column in (("sampled", "Sampled"), ("submitted", "Honest")):
        ratio = row[f"{column} gradient deviation"] / row[f"{column} gradient norm"]
        assert scraped("variance_norm_ratio", f', of="{of}"') == pytest.approx(ratio)
    accuracies = pd.read_csv(folder / "evaluations.csv").iloc[:, 1]
    assert scraped("accuracy") == pytest.approx(accuracies.iloc[-1])
    assert scraped("best_accuracy") == pytest.approx(accuracies.max())
