"""Sessions with a service: by curl, by the command, from Python."""

import json
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from killing import digests, undisturbed
from running_service import SWEEP, Running

from byzray.client import Client, Refused, Unreachable

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP % (60, 2))
    return path


def test_by_curl(service: Running, curl: Callable[..., str], sweep_file: Path) -> None:
    kind = ("--header", "Content-Type: application/yaml")
    body = ("--data-binary", f"@{sweep_file}")
    plan = json.loads(curl("/v1/plan?name=curled", *body, *kind))
    assert (plan["setups"], plan["runs"], plan["done"]) == (3, 6, 0)
    head = curl("/v1/sweeps?name=curled", *body, *kind, "--dump-header", "-")
    assert head.startswith("HTTP/1.1 201")
    assert f"location: /v1/sweeps/{plan['id']}" in head
    again = curl("/v1/sweeps?name=curled", *body, *kind, "--dump-header", "-")
    assert again.startswith("HTTP/1.1 200")  # the same content is the same sweep
    events = curl(f"/v1/sweeps/{plan['id']}/events", "--no-buffer")
    last = json.loads(events.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["state"], last["runs"]["done"]) == ("finished", 6)
    csv = curl(f"/v1/sweeps/{plan['id']}/results")
    assert len(csv.strip().splitlines()) == 7
    run = json.loads(curl(f"/v1/sweeps/{plan['id']}/runs?limit=1"))["items"][0]
    assert (run["state"], run["step"], run["steps"]) == ("finished", 60, 60)
    metrics = curl(f"/v1/sweeps/{plan['id']}/runs/{run['run']}/files/metrics.csv")
    assert metrics == (service.storage / "sweeps" / plan["id"] / "runs" / run["run"] / "metrics.csv").read_text()
    tag = next(
        line for line in curl(f"/v1/sweeps/{plan['id']}", "--head", "--request", "GET").splitlines() if "etag" in line
    )
    unchanged = curl(f"/v1/sweeps/{plan['id']}", "--header", f"If-None-Match: {tag.split()[1]}", "--dump-header", "-")
    assert unchanged.startswith("HTTP/1.1 304")


def test_by_the_command_with_a_sweep_cancelled_and_resumed_from_another_terminal(
    service: Running, client: Client, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "long.yaml").write_text(SWEEP % (1500, 1))
    said = command("submit", "long.yaml")
    assert said.returncode == 0, said.stderr
    sweep = said.stdout.partition(":")[0]
    assert said.stdout.startswith("long-")
    assert "starting, 0/3 runs done" in said.stdout
    service.wait_for(sweep, lambda found: found.runs.running > 0)
    assert sweep in command("ps").stdout
    assert "running" in command("status", "long").stdout
    cancelled = command("cancel", "long")
    assert cancelled.returncode == 0, cancelled.stderr
    assert service.wait_for(sweep, lambda found: found.state == "cancelled").runs.done < 3
    assert sweep not in command("ps").stdout
    assert "starting" in command("resume", "long").stdout
    said = command("watch", "long")
    assert said.returncode == 0
    assert said.stdout.splitlines()[-1] == "finished, 3/3 runs done"
    assert command("resume", "long").returncode == 2  # there is nothing to resume
    assert "best accuracy" in command("logs", "long").stdout
    said = command("get", "long", "--output", "got", "--runs")
    assert said.returncode == 0, said.stderr
    assert len(pd.read_csv(tmp_path / "got" / "runs.csv")) == 3
    assert (tmp_path / "got" / "report" / "index.html").exists()
    assert digests(tmp_path / "got" / "runs") == undisturbed(SWEEP % (1500, 1), tmp_path)


def test_from_python(service: Running, client: Client, sweep_file: Path, tmp_path: Path) -> None:
    plan = client.plan(sweep_file, only=["aggregator == 'median'"], seeds="1")
    assert (plan.setups, plan.runs) == (2, 2)  # with the reference
    sweep = client.submit(sweep_file, only=["aggregator == 'median'"], seeds="1", set={"steps": 40})
    assert sweep.id.startswith("mine-")
    assert sweep.id != plan.id
    assert client.submit(sweep_file, only=["aggregator == 'median'"], seeds="1", set={"steps": 40}).id == sweep.id
    assert client.wait(sweep.id).state == "finished"
    frame = client.results(sweep.id)
    assert set(frame["state"]) == {"finished"}
    assert len(frame) == 2
    assert {run.setup["steps"] for run in client.runs(sweep.id)} == {40}
    assert client.report(sweep.id, tmp_path / "report").exists()
    assert "".join(client.logs(sweep.id)).count(": best accuracy 0.") == 2
    assert sweep.id in {one.id for one in client.sweeps(state="finished")}
    assert [node.resources["CPU"] for node in client.cluster().nodes] == [2.0]
    (tmp_path / "one.yaml").write_text("{dataset: digits, workers: 5, steps: 20, aggregator: average}")
    one = client.plan(tmp_path / "one.yaml", seeds="3-4")  # a setup is a sweep of one
    assert (one.setups, one.runs) == (1, 2)
    # A plan knows the pace of earlier runs.
    estimated = client.plan(sweep_file, name="other")
    assert estimated.seconds is not None
    assert estimated.seconds > 0
    client.delete(sweep.id)
    with pytest.raises(Refused, match="there is no sweep"):
        client.sweep(sweep.id)
    assert not (service.storage / "sweeps" / sweep.id).exists()


def test_paused_with_a_limit_and_resumed(service: Running, client: Client, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(SWEEP % (1500, 1))
    sweep = client.submit(tmp_path / "p.yaml", at_once=1)
    running = service.wait_for(sweep.id, lambda found: found.runs.running > 0 and bool(found.current[0].step))
    assert running.runs.running == 1
    assert running.current[0].steps == 1500
    assert client.change(sweep.id, at_once=None).at_once is None
    client.pause(sweep.id)
    service.wait_for(sweep.id, lambda found: found.state == "paused")
    assert client.change(sweep.id, priority=3).priority == 3
    record = service.storage / "sweeps" / sweep.id / "service.json"
    record.write_text(record.read_text().replace(f'"torch": "{version("torch")}"', '"torch": "1.0"'))
    client.resume(sweep.id)
    refused_to_mix = client.wait(sweep.id)
    assert refused_to_mix.state == "failed"
    assert f"computed with torch 1.0, now {version('torch')}: results could differ" in refused_to_mix.why
    client.resume(sweep.id, mix_versions=True)
    with pytest.raises(Refused, match="expected it to have ended") as refused:
        client.delete(sweep.id)
    assert refused.value.status == 409
    assert client.wait(sweep.id).state == "finished"


def test_failed_runs_are_reported_and_retried(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("{dataset: mnist, workers: 5, steps: 5, aggregator: average}")
    sweep = client.wait(client.submit(tmp_path / "f.yaml", set={"dataset": "svhn"}).id)
    assert sweep.state == "failed"
    assert "svhn" in sweep.why
    assert client.resume(sweep.id).state == "starting"
    client.cancel(sweep.id)


def test_what_cannot_be_placed_is_stuck_at_once(service: Running, client: Client, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {dataset: digits, workers: 5, steps: 5, aggregator: average, actors: {cpus_per_actor: 7}}"
    )
    sweep = client.submit(tmp_path / "s.yaml")
    stuck = service.wait_for(sweep.id, lambda found: found.state == "stuck")
    assert "no room for a run that reserves 6 times 7 CPUs" in stuck.why
    client.cancel(sweep.id)
    service.wait_for(sweep.id, lambda found: found.state == "cancelled")


def test_all_mistakes_at_once(client: Client, command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("base: {datset: digits, workers: -3}\naxes: {aggregator: [medain]}")
    said = command("submit", "bad.yaml")
    assert said.returncode == 2
    assert "3 mistakes in the submission" in said.stderr
    for words in ("datset", "workers: got -3", "'medain'"):
        assert words in said.stderr
    with pytest.raises(Refused) as refused:
        client.submit(tmp_path / "bad.yaml")
    assert refused.value.status == 422
    assert len(refused.value.mistakes) == 3


def test_no_service(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no service answers"):
        Client("http://127.0.0.1:9", patience=0).health()
    assert time.monotonic() - began < 30


def test_json_everywhere(client: Client, command: Command, sweep_file: Path) -> None:
    for words in (("ps", "--all"), ("submit", "mine.yaml", "--plan")):
        json.loads(command(*words, "--json").stdout)
