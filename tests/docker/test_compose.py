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
PATIENCE = 600.0  # on a machine with other work; what is waited for takes seconds, a sweep half a minute

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

    def traceback(self, process: dict[str, Any]) -> str:
        """What "Stack Trace" of the dashboard shows of an actor."""
        asked = urlencode({"node_id": process["node_id"], "pid": process["pid"]})
        headers = {"Authorization": f"Bearer {self.token()}"}
        url = f"http://127.0.0.1:{PORTS['DASHBOARD']}/worker/traceback?{asked}"
        try:
            with urlopen(Request(url, headers=headers), timeout=60) as answer:
                return answer.read().decode()
        except HTTPError as error:
            return error.read().decode()


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
    pytest.skip("needs `docker compose` or `docker-compose`: install Docker's compose plugin")


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
        pytest.skip("needs `ss`: apt-get install iproute2")
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
        "COMPOSE_PROFILES": "monitoring",  # so that `down` ends Prometheus, too
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


@pytest.fixture(autouse=True)
def no_sweep_is_left(cluster: Cluster) -> Iterator[None]:
    """A test that fails leaves the cluster to the next one."""
    yield
    for container in cluster.containers("sweep"):
        docker("stop", container)


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
        pytest.skip("needs Prometheus: neither its image nor Debian's package, to make one from, can be downloaded")
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

    docker("kill", lost := eventually(victim))
    said, _ = sweep.communicate(timeout=2 * PATIENCE)
    assert sweep.returncode == 0, said
    assert "6 runs finished" in said
    logs = [path.read_text() for path in folder.glob("runs/*/log.txt")]
    # Which actors were on the node is chance: those of the fleet are replaced, the trial itself is tried again.
    assert any("was lost" in log or len(re.findall(" begins| continues from ", log)) > 1 for log in logs), logs
    runs = sorted(path.name for path in (undisturbed[0] / "runs").iterdir())
    assert runs == sorted(path.name for path in (folder / "runs").iterdir())
    for run in runs:
        for name in FILES:
            assert (folder / "runs" / run / name).read_bytes() == (undisturbed[0] / "runs" / run / name).read_bytes()
    assert state(lost) == "exited", "as the guide says: Docker does not start again what `docker kill` ended"
    cluster.do("up", "--detach", "worker")
    eventually(lambda: cluster.alive() == NODES)


def state(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Status}}", container).strip()


def restarts(container: str) -> int:
    return int(docker("inspect", "--format", "{{.RestartCount}}", container))


END = """
import os, signal, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if os.fsencode(sys.argv[1]) in file.read().split(b"\\0")[0]:
            os.kill(int(pid), signal.SIGKILL)
"""


def end(container: str, program: str) -> None:
    """End a process of Ray, as a crash or the lack of memory does."""
    docker("exec", container, "python", "-c", END, program)


def test_docker_starts_a_worker_again_whose_ray_died(
    cluster: Cluster, undisturbed: tuple[Path, list[set[str]]]
) -> None:
    container = cluster.containers("worker")[0]
    before = restarts(container)  # on a machine with other work Ray may have given up before
    end(container, "raylet/raylet")
    eventually(lambda: restarts(container) > before)
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

from byzray.aggregators import Aggregator


class Calm(Aggregator):
    def aggregate(self, submissions, f):
        time.sleep(0.05)
        return submissions.rows_ND.mean(dim=0)

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
    shown = cluster.ask("/api/v0/actors?" + urlencode({"limit": 100, "detail": 1}), cluster.token())
    actors = [actor for actor in shown["data"]["result"]["result"] if actor["state"] == "ALIVE" and actor["pid"]]
    traces = [cluster.traceback(actor) for actor in actors]
    assert not [trace for trace in traces if "disabled" in trace], traces
    # A host may forbid a process to look into others, even of its own user.
    assert [trace for trace in traces if "own.py" in trace or "Permission" in trace], traces
    (container,) = cluster.containers("sweep")
    docker("stop", container)
    assert sweep.wait(PATIENCE) != 0
    statuses = [json.loads(path.read_text()) for path in folder.glob("runs/*/status.json")]
    assert [status["state"] for status in statuses] == ["interrupted"] * 2
    assert all(status["step"] > 0 for status in statuses)
    said, _ = cluster.sweep("mine.yaml").communicate(timeout=PATIENCE)
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
    """As to root, who made the folder: reported at once, and not in the log of another container."""
    tmp_path.chmod(0o555)
    done = cluster.run("run", "--rm", "-T", "--no-deps", "sweep", "demo", BYZRAY_RESULTS=str(tmp_path))
    assert done.returncode == 2
    assert "BYZRAY_RESULTS: the user" in done.stdout + done.stderr
    assert "`chown" in done.stdout + done.stderr


def test_a_token_of_the_users_own_is_used(cluster: Cluster, tmp_path: Path) -> None:
    """It is taken at each start; what nodes that run read stays, as nothing else is started here.

    So it is with another user, who cannot read the token of the one before.
    """
    given = tmp_path / "token"
    given.write_text("my-token\n")
    given.chmod(0o644)
    command = "prepare-cluster && cat /run/byzray/token"
    before = cluster.token()
    try:
        done = cluster.run("run", "--rm", "-T", "init", "sh", "-c", command, BYZRAY_TOKEN_FILE=str(given))
        assert done.stdout == "my-token"
        done = cluster.run("run", "--rm", "-T", "init", "sh", "-c", command, BYZRAY_UID="4321", BYZRAY_GID="4321")
        assert re.fullmatch("[0-9a-f]{64}", done.stdout), done.stderr
        assert done.stdout != before
    finally:
        given.write_text(before)
        cluster.run("run", "--rm", "-T", "init", BYZRAY_TOKEN_FILE=str(given))


@pytest.mark.parametrize(
    ("made", "problem"),
    [("nothing", "there is no such file"), ("empty", "the file is empty"), ("of another", "cannot read this file")],
)
def test_a_token_that_cannot_be_used_is_told(cluster: Cluster, tmp_path: Path, made: str, problem: str) -> None:
    tmp_path.chmod(0o755)
    given = tmp_path / "token"
    if made != "nothing":
        given.write_text("" if made == "empty" else "my-token")
        given.chmod(0o644 if made == "empty" else 0o000)
    before = cluster.token()
    done = cluster.run("run", "--rm", "-T", "init", BYZRAY_TOKEN_FILE=str(given))
    assert done.returncode == 1
    assert f"BYZRAY_TOKEN_FILE: {problem}" in re.sub(r"the user \S+ of the containers ", "", done.stdout + done.stderr)
    assert cluster.token() == before


def test_docker_starts_the_head_again_whose_ray_died_and_the_sweep_is_continued(cluster: Cluster) -> None:
    """The last test, since all nodes start anew."""
    write_own(cluster.sweeps, 300)
    command = ["mine.yaml", "--output", "/results/headless", "--checkpoint-every", "20"]
    sweep = cluster.sweep(*command)
    folder = cluster.results / "headless"
    eventually(lambda: len(list(folder.glob("runs/*/checkpoints/*"))) >= 2)
    (head,) = cluster.containers("head")
    before = restarts(head)
    end(head, "gcs_server")
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "no valid answer from the cluster's head" in said
    assert "the same command continues it" in said
    assert "Traceback" not in said
    eventually(lambda: restarts(head) > before)
    eventually(lambda: docker("inspect", "--format", "{{.State.Health.Status}}", head).strip() == "healthy")
    said, _ = cluster.sweep(*command).communicate(timeout=PATIENCE)
    assert "2 runs finished" in said
    assert all("continues from step" in path.read_text() for path in folder.glob("runs/*/log.txt"))
