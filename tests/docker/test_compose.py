"""The cluster of docker/compose.yaml: brought up with a real engine, used, and damaged."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pandas as pd
import pytest

DOCKER = Path(__file__).parents[2] / "docker"
PROJECT = "byzray-test"
PORTS = {"DASHBOARD": 18265, "PROMETHEUS": 19090, "GRAFANA": 13000}
NODES = 4  # the head and three workers, each with one CPU
FILES = ("metrics.csv", "evaluations.csv", "parameters.npy")
PATIENCE = 120.0

# In the title of a process: a worker actor at work, as Ray names it after the run and the role.
COMPUTES = ": worker "

# The same of an actor of Tune's, which looks after a fleet.
LOOKS_AFTER = "Trainable"

# Runs of eight actors, the server and seven workers.
SWEEP = ["--only", "aggregator == 'median' and f == 4 and attack == 'little'", "--workers-per-actor", "1"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@dataclass
class Cluster:
    """A project of compose.

    Attributes:
        command: compose.
        environment: its variables.
        results: the host's folder of results.
        sweeps: the host's folder of the user's own sweeps.
        prometheus: whether there is one.
    """

    command: list[str]
    environment: dict[str, str]
    results: Path
    sweeps: Path
    prometheus: bool

    def run(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run compose, with some variables changed; its exit code is the caller's to look at."""
        environment = os.environ | self.environment | changed
        command = [*self.command, "--project-name", PROJECT, "--file", str(DOCKER / "compose.yaml"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def do(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sweep(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a sweep, as the guide says."""
        environment = os.environ | self.environment
        command = [*self.command, "--project-name", PROJECT, "--file", str(DOCKER / "compose.yaml")]
        command += ["run", "--rm", "-T", "sweep", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def containers(self, service: str) -> list[str]:
        labels = [f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}"]
        return docker("ps", "--quiet", *(word for label in labels for word in ("--filter", f"label={label}"))).split()

    def nodes(self) -> list[str]:
        return self.containers("head") + self.containers("worker")

    def token(self) -> str:
        return self.do("exec", "-T", "head", "cat", "/run/byzray/token").strip()

    def ask(self, path: str, token: str | None = None) -> Any:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with urlopen(Request(f"http://127.0.0.1:{PORTS['DASHBOARD']}{path}", headers=headers), timeout=30) as answer:
            return json.load(answer)

    def alive(self) -> int:
        """How many nodes the cluster has."""
        found = self.ask("/api/v0/nodes?" + urlencode({"limit": 100}), self.token())
        return sum(node["state"] == "ALIVE" for node in found["data"]["result"]["result"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{PORTS['PROMETHEUS']}/api/v1/query?" + urlencode({"query": expression})
        with urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]


def docker(*arguments: str) -> str:
    return subprocess.check_output(["docker", *arguments], text=True)


def eventually(check: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What a check returns, once that is true."""
    deadline = time.monotonic() + patience
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {patience:g} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def compose(engine: None) -> list[str]:
    """Compose, v2 as a plugin or any version as a command."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    pytest.skip("no compose: neither `docker compose` nor `docker-compose` is there")


@pytest.fixture(scope="module")
def prometheus(base: str, tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The image of compose.yaml, or a stand-in made of Debian's package where that can be had; else none."""
    official = re.search(r"BYZRAY_PROMETHEUS_IMAGE:-([^}]+)", (DOCKER / "compose.yaml").read_text())
    assert official is not None
    for command in (["image", "inspect"], ["pull", "--quiet"]):
        if not subprocess.run(["docker", *command, official[1]], capture_output=True).returncode:
            return official[1]
    context = tmp_path_factory.mktemp("prometheus")
    program = shutil.which("prometheus") or debian_prometheus(context)
    if program is None:
        return None
    shutil.copy2(program, context / "prometheus")
    lines = [f"FROM {base}", "COPY prometheus /bin/", "RUN install -d -m 777 /prometheus", 'ENTRYPOINT ["prometheus"]']
    (context / "Dockerfile").write_text("\n".join(lines))
    docker("build", "--quiet", "--tag", "byzray-prometheus:test", str(context))
    return "byzray-prometheus:test"


def debian_prometheus(folder: Path) -> str | None:
    """The program out of Debian's package, if that can be downloaded."""
    if (
        not shutil.which("apt-get")
        or subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True).returncode
    ):
        return None
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg", "--extract", str(package), str(folder / "package")], check=True)
    return str(folder / "package/usr/bin/prometheus")


def listeners() -> set[str]:
    """Who listens beyond the loopback interface; of programs that are known, the engine's alone."""
    lines = subprocess.check_output(["ss", "-H", "-ltnp"], text=True).splitlines()
    outside = [line for line in lines if not line.split()[3].startswith(("127.", "[::1]"))]
    return {line.split()[3] for line in outside if "users:" not in line or '"docker' in line}


@pytest.fixture(scope="module")
def listening_before(engine: None) -> set[str]:
    if shutil.which("ss") is None:
        pytest.skip("no `ss`; Debian's package iproute2 has it")
    return listeners()


@pytest.fixture(scope="module")
def cluster(
    compose: list[str],
    image: str,
    prometheus: str | None,
    torch: dict[str, str],
    listening_before: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    results, sweeps = (tmp_path_factory.mktemp(name) for name in ("results", "sweeps"))
    user = os.getuid() or 1000
    os.chown(results, user, -1)
    sweeps.chmod(0o755)
    environment = {
        "BYZRAY_IMAGE": image,
        "BYZRAY_UID": str(user),
        "BYZRAY_RESULTS": str(results),
        "BYZRAY_SWEEPS": str(sweeps),
        "BYZRAY_HEAD_CPUS": "1",
        "BYZRAY_PROMETHEUS_IMAGE": prometheus or "",
        **{f"BYZRAY_{name}_PORT": str(port) for name, port in PORTS.items()},
        **{f"BYZRAY_{name}": value for name, value in torch.items()},
    }
    started = Cluster(compose, environment, results, sweeps, prometheus is not None)
    started.run("down", "--volumes", "--timeout", "5")  # what an earlier session may have left
    try:
        started.do("up", "--detach", "worker", *(["prometheus"] if prometheus else []))
        eventually(lambda: started.alive() == NODES)
        yield started
    finally:
        started.run("down", "--volumes", "--timeout", "5", "--remove-orphans")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> tuple[Path, list[set[str]]]:
    """The results of a sweep on the cluster, and the nodes that had worker actors, as they were seen meanwhile."""
    sweep = cluster.sweep("demo", *SWEEP, "--seeds", "1-2")
    seen: list[set[str]] = []
    while sweep.poll() is None:
        seen.append({node for node in cluster.nodes() if COMPUTES in docker("top", node, "-eo", "pid,args")})
        time.sleep(1)
    assert sweep.stdout is not None
    said = sweep.stdout.read()
    assert sweep.returncode == 0, said
    assert "6 runs finished" in said
    return cluster.results / "demo", seen


def test_every_process_is_of_a_user_who_is_not_root(cluster: Cluster) -> None:
    containers = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    assert len(containers) == NODES + cluster.prometheus
    for container in containers:
        users = [line.split()[1] for line in docker("top", container, "-eo", "pid,uid").splitlines()[1:]]
        assert users
        assert "0" not in users
        ends = json.loads(docker("inspect", container))[0]
        assert ends["HostConfig"]["CapDrop"] == ["ALL"]
        assert not ends["HostConfig"]["Privileged"]


def test_nothing_listens_beyond_loopback(cluster: Cluster, listening_before: set[str]) -> None:
    assert listeners() - listening_before == set()
    for container in cluster.nodes():
        published = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Ports"]
        assert {binding["HostIp"] for bindings in published.values() for binding in bindings or ()} <= {"127.0.0.1"}


def test_the_dashboard_asks_for_the_token(cluster: Cluster) -> None:
    for token, status in ((None, 401), ("0" * 64, 403)):
        with pytest.raises(HTTPError) as refused:
            cluster.ask("/api/jobs/", token)
        assert refused.value.code == status
    assert isinstance(cluster.ask("/api/jobs/", cluster.token()), list)


def test_the_token_stands_nowhere_else(cluster: Cluster) -> None:
    token = cluster.token()
    assert re.fullmatch("[0-9a-f]{64}", token)
    for container in cluster.nodes():
        assert token not in docker("inspect", container)
        assert token not in docker("logs", container)


def test_worker_actors_are_on_every_node(undisturbed: tuple[Path, list[set[str]]]) -> None:
    assert max(len(nodes) for nodes in undisturbed[1]) == NODES


def test_the_report_is_on_the_host(undisturbed: tuple[Path, list[set[str]]]) -> None:
    folder, _ = undisturbed
    assert "<html" in (folder / "report/index.html").read_text()
    statuses = [json.loads(path.read_text()) for path in folder.glob("runs/*/status.json")]
    assert [status["state"] for status in statuses] == ["finished"] * 6
    environment = json.loads(next(folder.glob("runs/*/environment.json")).read_text())
    assert len({actor["address"] for actor in environment["actors"]}) == NODES


def test_prometheus_knows_all_nodes_and_what_the_runs_recorded(
    cluster: Cluster, undisturbed: tuple[Path, list[set[str]]]
) -> None:
    if not cluster.prometheus:
        pytest.skip("no Prometheus: its image cannot be pulled, and there is no Debian package to make one from")
    up = cluster.query('up{job="ray"}')
    assert len({series["metric"]["instance"].partition(":")[0] for series in up}) == NODES
    assert {series["value"][1] for series in up} == {"1"}
    # A process exports a run's last values until it ends, so those of the sweep's first run were scraped.
    first = min((undisturbed[0] / "runs").iterdir(), key=lambda run: (run / "status.json").stat().st_mtime)
    metrics, evaluations = (pd.read_csv(first / name) for name in ("metrics.csv", "evaluations.csv"))
    expected = {
        "step": len(metrics),
        "loss": metrics["Average loss"].iloc[-1],
        "best_accuracy": evaluations["accuracy"].max(),
    }
    for name, value in expected.items():
        (series,) = cluster.query(
            f'max by (run, seed, sweep) (last_over_time(ray_byzray_{name}{{run="{first.name}"}}[1h]))'
        )
        assert series["metric"]["sweep"] == "demo"
        assert float(series["value"][1]) == pytest.approx(value)


def test_a_sweep_outlives_a_node(cluster: Cluster, undisturbed: tuple[Path, list[set[str]]]) -> None:
    """Three CPUs of four are enough for all actors of a run, so there is room when a node is lost."""
    folder = cluster.results / "killed"
    sweep = cluster.sweep("demo", *SWEEP, "--seeds", "1-2", "--cpus", "2.4", "--output", "/results/killed")

    def victim() -> str | None:
        """A worker container with some of a fleet's actors, while a run other than the first is under way.

        Not that of the actor that looks after the fleet: with it the run is tried again, and no actor is replaced.
        """
        if len(list(folder.glob("runs/*/metrics.csv"))) < 2:
            return None
        workers = {node: docker("top", node, "-eo", "pid,args") for node in cluster.containers("worker")}
        found = (node for node, seen in workers.items() if COMPUTES in seen and LOOKS_AFTER not in seen)
        return next(found, None)

    docker("kill", eventually(victim))
    said, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, said
    assert "6 runs finished" in said
    logs = [path.read_text() for path in folder.glob("runs/*/log.txt")]
    assert any("was lost" in log for log in logs), logs
    runs = sorted(path.name for path in (undisturbed[0] / "runs").iterdir())
    assert runs == sorted(path.name for path in (folder / "runs").iterdir())
    for run in runs:
        for name in FILES:
            assert (folder / "runs" / run / name).read_bytes() == (undisturbed[0] / "runs" / run / name).read_bytes()
    cluster.do("up", "--detach", "worker")
    eventually(lambda: cluster.alive() == NODES)


OWN_SWEEP = """
base:
  dataset: digits
  model: {name: mlp, hidden: [8]}
  steps: STEPS
  workers: 5
  aggregator: own:Calm
  evaluation_interval: 5
axes:
  momentum.placement: [update, worker]
"""

OWN_RULE = """
import time

from byzray.aggregators import Aggregate, Aggregator


class Calm(Aggregator):
    def aggregate(self, gradients_ND, f):
        time.sleep(0.05)
        return Aggregate(gradients_ND.mean(dim=0))

    def check(self, n, f):
        return None
"""


def write_own(folder: Path, steps: int) -> None:
    (folder / "mine.yaml").write_text(OWN_SWEEP.replace("STEPS", str(steps)))
    (folder / "own.py").write_text(OWN_RULE)


def test_a_sweep_of_the_users_own_can_be_stopped_and_continued(cluster: Cluster) -> None:
    write_own(cluster.sweeps, 600)  # half a minute
    sweep = cluster.sweep("mine.yaml", "--checkpoint-every", "1000")
    folder = cluster.results / "mine"
    eventually(lambda: len(list(folder.glob("runs/*/metrics.csv"))) == 2)
    (container,) = cluster.containers("sweep")
    docker("stop", container)
    assert sweep.wait(60) != 0
    statuses = [json.loads(path.read_text()) for path in folder.glob("runs/*/status.json")]
    assert [status["state"] for status in statuses] == ["interrupted"] * 2
    assert all(status["step"] > 0 for status in statuses)
    said, _ = cluster.sweep("mine.yaml").communicate(timeout=300)
    assert "2 runs finished" in said


def test_a_job_comes_from_outside(cluster: Cluster, tmp_path: Path) -> None:
    write_own(tmp_path, 10)
    (tmp_path / "token").write_text(cluster.token())
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    command = [f"{sys.prefix}/bin/ray", "job", "submit", "--address", f"http://127.0.0.1:{PORTS['DASHBOARD']}"]
    command += ["--working-dir", ".", "--", "byzray", "sweep", "mine.yaml", "--output", "/results/outside"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs finished" in done.stdout
    assert (cluster.results / "outside/report/index.html").exists()


def test_a_mistake_passes_through(cluster: Cluster) -> None:
    done = cluster.run("run", "--rm", "-T", "sweep", "nothing.yaml")
    assert done.returncode == 2
    assert "there is no such file" in done.stdout


def test_a_folder_that_cannot_be_written_is_told_at_once(cluster: Cluster, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = cluster.run("run", "--rm", "-T", "init", BYZRAY_RESULTS=str(tmp_path))
    assert done.returncode == 1
    assert "BYZRAY_RESULTS: the user" in done.stdout + done.stderr


def test_a_token_of_the_users_own_is_used(cluster: Cluster, tmp_path: Path) -> None:
    """It is taken at each start; what nodes that run read stays, as nothing else is started here."""
    given = tmp_path / "token"
    given.write_text("my-token\n")
    given.chmod(0o644)
    command = "prepare-cluster && cat /run/byzray/token"
    before = cluster.token()
    try:
        done = cluster.run("run", "--rm", "-T", "init", "sh", "-c", command, BYZRAY_TOKEN_FILE=str(given))
        assert done.stdout == "my-token"
    finally:
        given.write_text(before)
        cluster.run("run", "--rm", "-T", "init", BYZRAY_TOKEN_FILE=str(given))
