"""What nobody gets a service to do."""

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from running_service import PATIENCE, Running, ask, free_port

from byzray.client import Client, Refused

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SMALL = "{dataset: digits, workers: 5, steps: 3, aggregator: average}"


@pytest.fixture
def opened(service: Running) -> Client:
    """A client of the service without tokens."""
    return service.client()


def mistakes(client: Client, yaml: str, **more: Any) -> str:
    with pytest.raises(Refused) as refused:
        client.submit(yaml=yaml, **more)
    assert refused.value.status == 422
    return "\n".join(refused.value.mistakes)


def test_classes_of_strangers_are_not_imported(service: Running, opened: Client) -> None:
    marker = service.storage / "imported"
    (service.storage / "evil_rules.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    for yaml in (
        "{aggregator: 'evil_rules:Evil'}",
        "{model: {name: 'evil_rules:Evil'}}",
        "base: {dataset: digits}\naxes: {aggregator: ['evil_rules:Evil', median]}",
        "base: {dataset: 'evil_rules:Evil'}",
        "sample: {count: 3, search: optuna, over: {aggregator: {choice: ['evil_rules:Evil', median]}}}",
        "sample: {count: 3, search: optuna, over: {pre: {choice: [none, [{name: 'evil_rules:Evil'}]]}}}",
    ):
        assert "'evil_rules:Evil' is a class of somebody's own, which is not imported here" in mistakes(opened, yaml)
    assert "which is not imported here" in mistakes(opened, SMALL, set={"aggregator": "evil_rules:Evil"})
    assert not marker.exists()


def test_files_of_the_machine_are_not_read(opened: Client, tmp_path: Path) -> None:
    for yaml in (
        "{dataset: {name: npz, path: /etc/passwd}}",
        "base: {dataset: digits}\naxes: {dataset.name: [npz], dataset.path: [/etc/passwd]}",
        "{dataset: digits, split: {name: file, path: /etc/passwd}}",
        "sample: {count: 3, search: optuna, over: {dataset: {choice: [digits, {name: npz, path: /etc/passwd}]}}}",
        "{base: {dataset: npz}, sample: {count: 3, search: optuna, over: {dataset.path: {choice: [/etc/passwd]}}}}",
    ):
        assert "got '/etc/passwd', expected one that the operator allows" in mistakes(opened, yaml)
    assert "a service reads no other file" in mistakes(opened, "{base: /etc/passwd, seeds: 1}")
    missing = mistakes(opened, "{dataset: {name: npz, path: /nowhere}}")
    assert "/nowhere" in missing
    assert "exist" not in missing


def test_texts_that_stand_for_billions(opened: Client) -> None:
    began = time.monotonic()
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert "found more than 50000 values" in mistakes(opened, laughs)
    assert "nested" in mistakes(opened, "[" * 5000)
    assert "combinations" in mistakes(
        opened, f"base: {SMALL}\naxes: {{steps: {list(range(200))}, workers: {list(range(200))}}}"
    )
    assert "seeds" in mistakes(opened, SMALL, seeds="1-99999999999")
    assert "runs, expected at most" in mistakes(
        opened, f"base: {SMALL}\naxes: {{steps: {list(range(30))}}}", seeds="1-9999"
    )
    assert "9**9**9" in mistakes(opened, SMALL, only=["9**9**9 > 1"])
    assert time.monotonic() - began < 60


def test_bodies_that_are_too_large(service: Running) -> None:
    declared = ask(service, "POST", "/v1/sweeps", data=b"x" * 1_000_001, headers={"Content-Type": "application/yaml"})
    assert declared.status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 10_000

    try:
        streamed = ask(service, "POST", "/v1/sweeps", data=pieces(), headers={"Content-Type": "application/yaml"})
    except requests.ConnectionError:  # it was cut while it was sent
        pass
    else:
        assert streamed.status_code == 413
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as lied:
        head = (
            "POST /v1/sweeps HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/yaml",
            "Content-Length: 99999999",
        )
        lied.sendall("\r\n".join([*head, "", ""]).encode())
        assert b" 413 " in lied.recv(1000)
    assert ask(service, "GET", "/v1/health").status_code == 200


def test_no_path_leads_out_of_a_run(service: Running, opened: Client) -> None:
    sweep = opened.wait(opened.submit(yaml=SMALL, name="plain").id).id
    run = next(opened.runs(sweep)).run
    folder = service.storage / "sweeps" / sweep
    (folder / "runs" / run / "link.txt").symlink_to("/etc/passwd")
    (folder / "runs" / "outside").symlink_to("/etc")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for path in (
        f"/v1/sweeps/{sweep}/runs/{run}/files/link.txt",
        f"/v1/sweeps/{sweep}/runs/{run}/files/..%2f..%2fservice.json",
        f"/v1/sweeps/{sweep}/runs/{run}/files/../../service.json",
        f"/v1/sweeps/{sweep}/runs/{run}/files/%2e%2e",
        f"/v1/sweeps/{sweep}/runs/{run}/files/.lock",
        f"/v1/sweeps/{sweep}/runs/{run}/files/%00",
        f"/v1/sweeps/{sweep}/runs/..%2f..%2f..%2f/files/tokens.json",
        f"/v1/sweeps/{sweep}/runs/../files/service.json",
        f"/v1/sweeps/{sweep}/runs/outside/files/passwd",
        "/v1/sweeps/../runs/x/files/settings.json",
        "/v1/sweeps/..%2f..%2fetc/runs",
        "/v1/sweeps/....//....//etc-0123456789",
        "//etc/passwd",
        "/../../../../etc/passwd",
    ):
        connection.request("GET", path)  # as it is, unlike most clients, which shorten it first
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status in (307, 400, 404, 422), path
        assert b"root:" not in content, path
        assert b"submission" not in content, path
    names = {file.name for file in opened.files(sweep, run)}
    assert "metrics.csv" in names
    assert not names & {"link.txt", ".lock"}


def test_headers_cannot_be_injected(service: Running, opened: Client) -> None:
    for query in ("name=x%0d%0aSet-Cookie:%20a=b", "after=x%0d%0aSet-Cookie:%20a=b", "owner=%0d%0aX:%20y"):
        answer = ask(service, "GET", f"/v1/sweeps?{query}")
        assert not {"set-cookie", "x"} & {name.lower() for name in answer.headers}
    kind = {"Content-Type": "application/yaml"}
    answer = ask(service, "POST", "/v1/sweeps?name=x%0d%0aSet-Cookie:%20a=b", data=SMALL, headers=kind)
    assert answer.status_code == 422
    assert "Set-Cookie" not in answer.headers


def test_pages_of_other_sites(service: Running) -> None:
    assert ask(service, "GET", "/v1/health", headers={"Host": "evil.example"}).status_code == 400
    foreign = {"Origin": "http://evil.example"}
    assert ask(service, "GET", "/v1/sweeps", headers=foreign).status_code == 403
    assert (
        ask(service, "POST", "/v1/sweeps", data="sweep=demo", headers={"Content-Type": "text/plain"}).status_code == 415
    )


def test_the_documentation_needs_nothing_from_elsewhere(service: Running) -> None:
    page = ask(service, "GET", "/docs").text
    assert "swagger" in page.lower()
    scripts = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert scripts
    for script in scripts:
        assert script.startswith("/")
        assert ask(service, "GET", script).status_code == 200


def test_strangers_are_not_served(tmp_path: Path, service: Running) -> None:
    def serve(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "byzray", "serve", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)

    elsewhere = serve("--host", "0.0.0.0", "--port", str(free_port()))
    assert elsewhere.returncode == 2
    assert "which others can reach, and there is no token" in " ".join(elsewhere.stderr.split())
    twice = serve("--storage", str(service.storage), "--port", str(free_port()))
    assert twice.returncode == 2
    assert "is that of a service that runs already" in " ".join(twice.stderr.split())
    taken = serve("--port", str(service.port))
    assert taken.returncode == 2
    assert "cannot listen on" in taken.stderr


def test_what_the_schema_allows(service: Running, opened: Client, tmp_path: Path) -> None:
    """Generated requests, valid ones and others: each answer is documented, and none is an error of the service's."""
    count = "10"  # of each kind; `--max-examples 50` by hand
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"]
    command += [
        "--checks",
        checks,
        "--max-examples",
        count,
        "--generation-deterministic",
        "--exclude-path-regex",
        "events",
    ]
    command += ["--phases", "coverage,fuzzing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    for sweep in list(opened.sweeps()):
        if sweep.state not in ("finished", "cancelled"):
            opened.cancel(sweep.id)
    left = json.dumps(sorted(path.name for path in service.storage.iterdir()))
    assert "imported" not in left
