"""Who may ask a service for what."""

import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
from running_service import SWEEP, Running, ask

from byzray.client import Refused


@pytest.fixture(scope="module")
def tokens(service: Running) -> Iterator[dict[str, str]]:
    """Tokens of two users and an administrator; without them the service is open again afterwards."""

    def manage(*words: str) -> str:
        command = [sys.executable, "-m", "byzray", "service", "token", *words, "--storage", str(service.storage)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    yield {"alice": manage("add", "alice"), "bob": manage("add", "bob"), "root": manage("add", "root", "--admin")}
    for name in ("alice", "bob", "root"):
        manage("remove", name)


def test_tokens_are_kept_as_hashes(service: Running, tokens: dict[str, str]) -> None:
    path = service.storage / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(token in path.read_text() for token in tokens.values())
    assert service.client(tokens["root"]).caller().admin
    assert not service.client(tokens["bob"]).caller().admin


def test_nobody_is_let_in_without_a_token(service: Running, tokens: dict[str, str]) -> None:
    schema = ask(service, "GET", "/openapi.json").json()
    tried = 0
    for path, methods in schema["paths"].items():
        if path == "/v1/health":
            continue
        where = path.format(sweep="x-0123456789", run="x", file="x")
        for method in methods:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {tokens['root']}"}):
                answer = ask(service, method.upper(), where, headers=headers, json={})
                assert answer.status_code == 401, (method, path)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert set(answer.json()) == {"detail", "mistakes"}
                tried += 1
    assert tried >= 3 * 19


def test_the_sweep_of_somebody_else(service: Running, tokens: dict[str, str]) -> None:
    alice, bob, root = (service.client(tokens[name]) for name in ("alice", "bob", "root"))
    sweep = alice.submit(yaml=SWEEP % (3000, 1), name="hers")
    assert sweep.owner == "alice"
    assert bob.sweep(sweep.id).owner == "alice"  # everybody may read
    assert bob.submit(yaml=SWEEP % (3000, 1), name="hers").id != sweep.id
    for change in (bob.pause, bob.cancel, bob.resume, bob.delete, lambda id: bob.change(id, priority=5)):
        with pytest.raises(Refused, match="belongs to alice, you are bob") as refused:
            change(sweep.id)
        assert refused.value.status == 403
    for one in bob.sweeps():
        if one.owner == "bob":
            bob.cancel(one.id)
    root.cancel(sweep.id)
    assert root.wait(sweep.id).state == "cancelled"
    alice.delete(sweep.id)
