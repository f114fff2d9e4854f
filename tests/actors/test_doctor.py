"""The doctor on a cluster of two nodes, one of which is misconfigured."""

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from actors.doctor import NAMED, Verdict, merged
from actors.nodes import Node
from byzray.commands.doctor import ray_findings
from byzray.machine import Finding

ODD = """
import importlib.metadata

true_version = importlib.metadata.version
importlib.metadata.version = lambda package: "1.0.0" if package == "numpy" else true_version(package)
"""


@pytest.fixture(scope="module")
def odd(start_node: Callable[..., str], can_mount: bool, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A node with another NumPy and with GPUs that do not exist; and a folder that it does not share."""
    if not can_mount:
        pytest.skip("starts a node with other files, which needs the right to mount: run the tests as root")
    folder = tmp_path_factory.mktemp("odd")
    packages, output = folder / "packages", folder / "output"
    for made in (packages, output):
        made.mkdir(parents=True)
    (packages / "sitecustomize.py").write_text(ODD)
    path = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    return start_node("--num-gpus", "2", before=f"mount -t tmpfs none {output}", PYTHONPATH=path), output


def answers_without_token(dashboard: str) -> bool:
    """Whether Ray answers a request without a token, as it does by default before 2.57."""
    try:
        with urllib.request.urlopen(f"{dashboard}/nodes?view=summary", timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)


def test_each_fault_of_a_node_is_reported(odd: tuple[str, Path], ray_cluster: str, tmp_path: Path) -> None:
    id, output = odd
    address = ray.get_runtime_context().gcs_address
    findings = list(ray_findings(address, tmp_path, str(output)))

    def at(what: str, state: str) -> list[str]:
        return [one.found for one in findings if (one.what, one.state) == (what, state)]

    (cluster,) = at("Ray", "ok")
    assert cluster.startswith(f"{address}: 2 nodes, ")
    (version,) = at("version of numpy", "warning")
    assert f"({id[:6]}): 1.0.0; here: " in version
    assert not [one for one in findings if one.what.startswith("version") and one.found != version]
    (gpu,) = at("GPU", "broken")
    assert gpu.endswith(f"({id[:6]}): Ray reports 2, PyTorch sees 0")
    (results,) = at("results", "broken")
    assert results.endswith(f"({id[:6]}): {output} is a different folder there")
    assert len(at("results", "ok")) == 1
    assert at("data sets", "ok") == [f"all 2 nodes: below {tmp_path}: digits"]
    if answers_without_token(ray_cluster):
        (found,) = at("authentication", "warning")
        assert found.endswith("can run anything on the cluster: Ray requires no token")
    else:
        assert at("authentication", "ok") == ["Ray requires its token"]
    assert all(one.fix for one in findings if one.state != "ok")


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    (finding,) = ray_findings(f"127.0.0.1:{port}", None, None)
    assert finding.state == "broken"
    assert finding.found == f"127.0.0.1:{port}: nothing answers there (Connection refused)"
    assert "ray start --head" in finding.fix


def test_equal_findings_about_nodes_are_merged() -> None:
    alive = [Node(f"{index}", f"10.0.0.{index}", f"10.0.0.{index}") for index in range(50)]
    fine, bad = Verdict("ok", "fine"), Verdict("broken", "bad", "fix it")
    assert list(merged("GPU", dict.fromkeys(alive, fine), alive)) == [Finding("ok", "GPU", "all 50 nodes: fine")]
    assert list(merged("GPU", dict.fromkeys(alive[:48], fine) | dict.fromkeys(alive[48:], bad), alive)) == [
        Finding("ok", "GPU", f"48 nodes ({', '.join(node.name for node in alive[:NAMED])}, ...): fine"),
        Finding("broken", "GPU", "10.0.0.48, 10.0.0.49: bad", "fix it"),
    ]
