"""The doctor on a cluster of two nodes, one of which is not as it should be."""

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from actors.doctor import NAMED, Verdict, told
from actors.nodes import Node
from byzray.commands.doctor import ray_findings
from byzray.commands.machine import Finding

ODD = """
import importlib.metadata
import time

true_time, true_version = time.time, importlib.metadata.version
time.time = lambda: true_time() + 120.0
importlib.metadata.version = lambda package: "1.0.0" if package == "numpy" else true_version(package)
"""


@pytest.fixture(scope="module")
def odd(start_node: Callable[..., str], can_mount: bool, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Starts a node with another NumPy, GPUs that are none, and a clock that is ahead; and a folder it does not see."""
    if not can_mount:
        pytest.skip("starts a node that sees other files, which needs the right to mount: run the tests as root")
    folder = tmp_path_factory.mktemp("odd")
    packages, output = folder / "packages", folder / "output"
    for made in (packages, output):
        made.mkdir(parents=True)
    (packages / "sitecustomize.py").write_text(ODD)
    path = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    return start_node("--num-gpus", "2", before=f"mount -t tmpfs none {output}", PYTHONPATH=path), output


def answers_strangers(dashboard: str) -> bool:
    """Whether a request without a token is answered: Ray before 2.57 asks for none unless it is told to."""
    try:
        with urllib.request.urlopen(f"{dashboard}/nodes?view=summary", timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)


def test_what_is_wrong_on_a_node_is_told(odd: tuple[str, Path], ray_cluster: str, tmp_path: Path) -> None:
    id, output = odd
    address = ray.get_runtime_context().gcs_address
    findings = list(ray_findings(address, tmp_path, str(output)))

    def at(what: str, state: str) -> list[str]:
        return [one.found for one in findings if (one.what, one.state) == (what, state)]

    (cluster,) = at("Ray", "ok")
    assert cluster.startswith(f"{address}: 2 nodes, ")
    assert len(at("nodes", "ok")) == 2
    (version,) = at("version of numpy", "warning")
    assert f"({id[:6]}): 1.0.0; here: " in version
    assert not [one for one in findings if one.what.startswith("version") and one.found != version]
    (gpu,) = at("GPU", "broken")
    assert gpu.endswith(f"({id[:6]}): Ray was told of 2, PyTorch sees 0")
    (results,) = at("results", "broken")
    assert results.endswith(f"({id[:6]}): {output} is another folder there")
    assert len(at("results", "ok")) == 1
    (clock,) = at("clock", "warning")
    assert clock.endswith(f"({id[:6]}): 120 s ahead of that here")
    assert at("data sets", "ok") == [f"all 2 nodes: below {tmp_path}: digits"]
    assert at("connections", "ok") == ["all 2 nodes: reach each other, and form a torch.distributed group"]
    if answers_strangers(ray_cluster):
        (found,) = at("authentication", "warning")
        assert found.endswith("can run anything on the cluster: Ray asks for no token")
    else:
        assert at("authentication", "ok") == ["Ray asks for its token"]
    assert len(at("dashboard", "ok")) == 1
    for what in ("object store", "disk"):
        assert at(what, "ok"), what
    assert all(one.mend for one in findings if one.state != "ok")


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    (finding,) = ray_findings(f"127.0.0.1:{port}", None, None)
    assert finding.state == "broken"
    assert finding.found == f"127.0.0.1:{port}: nothing answers there (Connection refused)"
    assert "ray start --head" in finding.mend


def test_nodes_that_are_alike_are_told_together() -> None:
    alive = [Node(f"{index}", f"10.0.0.{index}", f"10.0.0.{index}") for index in range(50)]
    fine, bad = Verdict("ok", "fine"), Verdict("broken", "bad", "mend it")
    assert list(told("disk", dict.fromkeys(alive, fine), alive)) == [Finding("ok", "disk", "all 50 nodes: fine")]
    assert list(told("disk", dict.fromkeys(alive[:48], fine) | dict.fromkeys(alive[48:], bad), alive)) == [
        Finding("ok", "disk", f"48 nodes ({', '.join(node.name for node in alive[:NAMED])}, ...): fine"),
        Finding("broken", "disk", "10.0.0.48, 10.0.0.49: bad", "mend it"),
    ]
