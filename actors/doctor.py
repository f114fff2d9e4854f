"""What a cluster can run: versions, GPUs, data sets, the folder for results and the token, each with its fix.

`byzray doctor` runs this module in a process of its own, which may hang or be killed. It then is ``__main__``, so that
Ray sends its functions by value, even to nodes without byzray.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import ray

from actors.cluster import connect, nobody_at
from actors.imports import worker_environment
from actors.nodes import Node, nodes, on_every_node, sharing
from byzray.data import data_root
from byzray.datasets import Data
from byzray.machine import Finding, State, load_all

PACKAGES = ("byzray", "ray", "torch", "numpy")

# How many nodes a finding names; for more it gives their number.
NAMED = 4

GIB = 2**30

SAME = "run the driver and every node from one image, or from one lock file"
RESTART = "restart it: ray start --address=HEAD:6379"
TOKEN = "create a token (ray get-auth-token --generate), and start every node with it and with RAY_AUTH_MODE=token"
SHARE = "name a folder that all nodes mount (NFS, a ReadWriteMany volume), or a URI such as s3://bucket/prefix"
URI = "check that every node has the credentials and reaches the storage"
NOT_NEEDED = "not needed: everything runs on CPUs"


class Verdict(NamedTuple):
    """A finding about a node, without its name, so that equal ones can be merged."""

    state: State
    found: str
    fix: str = ""


Verdicts = dict[Node, Verdict]
Observations = dict[Node, dict[str, Any]]


def examine(address: str | None, root: Path, output: str | None) -> Iterator[Finding]:
    """Examine the cluster at `address` or $RAY_ADDRESS; without one, check whether Ray can start here.

    Args:
        address: of a cluster, as Ray understands it.
        root: the folder that holds data sets.
        output: the folder or URI for results, if the user named one.
    """
    where = address or os.environ.get("RAY_ADDRESS")
    reason = nobody_at(where) if where else ""
    try:
        if where and not reason:
            ray.init(address=where, log_to_driver=False, runtime_env=worker_environment(where))
        elif not where:
            connect(dashboard=False, output=False)
    except Exception as error:
        reason = textwrap.shorten(str(error), 300, placeholder="...") or type(error).__name__
    if reason:
        yield Finding("broken", "Ray", f"{where or 'started here'}: {reason}", connection_fix(reason))
        return
    resources, alive = ray.cluster_resources(), nodes()
    count = f"{len(alive)} node{'s' * (len(alive) > 1)}"
    yield Finding(
        "ok",
        "Ray",
        f"{where or 'started here'}: {count}, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs",
    )
    if where:
        yield from examine_nodes(alive, root, output)


def connection_fix(reason: str) -> str:
    """What to do if Ray does not connect."""
    nobody = ("answers there", "sends nothing", "dashboard", "no HOST:PORT", "Could not find any", "Invalid address")
    if any(words in reason for words in nobody):
        return "start the cluster: ray start --head; or name a running one: --address HOST:6379, or RAY_ADDRESS"
    if "ersion mismatch" in reason:
        return f"Ray and Python must have the same version on all machines, down to the last digit: {SAME}"
    return (
        "if the cluster requires a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN; "
        "`ray get-auth-token` prints it on the head"
    )


def examine_nodes(alive: list[Node], root: Path, output: str | None) -> Iterator[Finding]:
    """The findings about the nodes of a cluster."""
    observed, failed = on_every_node(observe, among=alive)
    yield from merged("no answer", {node: Verdict("broken", why, RESTART) for node, why in failed.items()}, alive)
    yield from versions(observed)
    reserved = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes()}
    yield from merged("GPU", {node: gpu(seen, reserved[node.id]) for node, seen in observed.items()}, alive)
    able = [node for node in observed if observed[node]["versions"]["byzray"] is not None]
    present, failed = on_every_node(data_sets, str(root), among=able)
    verdicts = {node: Verdict("ok", f"below {root}: {', '.join(names) or 'none'}") for node, names in present.items()}
    yield from merged("data sets", verdicts | {node: Verdict("warning", why) for node, why in failed.items()}, alive)
    yield from results(list(observed), output)
    yield authentication(observed)


def merged(what: str, verdicts: Verdicts, alive: Sequence[Node]) -> Iterator[Finding]:
    """Findings about nodes, one for all nodes with equal verdicts."""
    same: dict[Verdict, list[Node]] = {}
    for node, verdict in verdicts.items():
        same.setdefault(verdict, []).append(node)
    for (state, found, fix), those in same.items():
        yield Finding(state, what, f"{named(those, alive)}: {found}", fix)


def named(those: Sequence[Node], alive: Sequence[Node]) -> str:
    """Some of the nodes that are alive, in words."""
    if len(those) == len(alive) > 1:
        return f"all {len(alive)} nodes"
    first = ", ".join(node.name for node in those[:NAMED])
    return first if len(those) <= NAMED else f"{len(those)} nodes ({first}, ...)"


def observe() -> dict[str, Any]:
    """What a process on a node finds there."""
    # Older releases of Ray hide GPUs from tasks that reserve none.
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]
    try:
        import torch

        gpus: int | str = torch.cuda.device_count()
    except Exception as error:
        gpus = f"{type(error).__name__}: {error}"
    return {
        "versions": installed(),
        "gpus": gpus,
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    }


def installed() -> dict[str, str | None]:
    """The versions of what results depend on; byzray's with a digest of its code."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    code = hashlib.sha256()
    for package in ("byzray", "actors", "sweeps"):
        spec = importlib.util.find_spec(package)
        if spec is None:
            return found | {"byzray": None}
        for folder in spec.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                code.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found | {"byzray": f"{found['byzray'] or 'not installed'}, code {code.hexdigest()[:8]}"}


def versions(observed: Observations) -> Iterator[Finding]:
    """Which versions on nodes differ from those here."""
    here = installed()
    differ = False
    for package, mine in here.items():
        theirs: dict[str | None, list[Node]] = {}
        for node, seen in observed.items():
            theirs.setdefault(seen["versions"][package], []).append(node)
        for version, those in theirs.items():
            if version == mine:
                continue
            differ = True
            # Other code of ours fails or computes something else; other libraries round differently.
            state: State = "broken" if package == "byzray" or version is None else "warning"
            found = f"{named(those, list(observed))}: {version or 'not installed'}; here: {mine or 'not installed'}"
            yield Finding(state, f"version of {package}", found, SAME)
    if not differ:
        yield Finding("ok", "versions", f"as here: {', '.join(f'{name} {one}' for name, one in here.items())}")


def gpu(seen: dict[str, Any], reported: float) -> Verdict:
    """Whether PyTorch sees the GPUs that Ray reports."""
    sees = seen["gpus"]
    if isinstance(sees, str):
        return Verdict("broken", f"PyTorch cannot be imported: {sees}", SAME)
    if sees < reported:
        fix = "in Docker: --gpus all and the CUDA image; else a PyTorch for CUDA, and NVIDIA's driver (nvidia-smi)"
        return Verdict("broken", f"Ray reports {reported:g}, PyTorch sees {sees}", fix)
    if sees > reported:
        return Verdict("warning", f"PyTorch sees {sees}, Ray reports {reported:g}", f"ray start --num-gpus={sees}")
    return Verdict("ok", f"{sees}, for Ray and PyTorch") if sees else Verdict("missing", "none", NOT_NEEDED)


def data_sets(root: str) -> list[str]:
    """The data sets that can be read on this node."""
    return [name for name, found in load_all(Path(root)) if isinstance(found, Data)]


def results(alive: list[Node], output: str | None) -> Iterator[Finding]:
    """Whether all nodes can write results to `output`, by default a folder `results` here."""
    bad: State = "warning" if output is None else "broken"
    if output is not None and "://" in output:
        found, failed = on_every_node(reach, output, among=alive)
        verdicts = {node: Verdict("ok", "the URI answers") for node in found}
        verdicts |= {node: Verdict(bad, why, URI) for node, why in failed.items()}
    else:
        folder = Path(output or "results").absolute()
        while not folder.exists():  # a sweep creates it
            folder = folder.parent
        try:
            same, others = sharing(folder, alive)
        except OSError as error:
            yield Finding(bad, "results", f"cannot write to {folder} here: {error.strerror}", "name another --output")
            return
        fine = Verdict("ok", f"{folder} can be written to, {shutil.disk_usage(folder).free / GIB:.0f} GiB free")
        verdicts = dict.fromkeys(same, fine)
        verdicts |= {node: Verdict(bad, why, SHARE) for node, why in others.items()}
    yield from merged("results", verdicts, alive)


def reach(uri: str) -> None:
    from pyarrow.fs import FileSystem  # here, as this also imports S3

    filesystem, path = FileSystem.from_uri(uri)
    filesystem.get_file_info(path)


def authentication(observed: Observations) -> Finding:
    """Whether Ray requires a token, as it should where others can reach it."""
    if all(seen["token"] for seen in observed.values()):
        return Finding("ok", "authentication", "Ray requires its token")
    beyond = [node.address for node in observed if not node.address.startswith("127.")]
    if not beyond:
        return Finding("ok", "authentication", "Ray requires no token; it can be reached from this machine only")
    found = f"anyone who reaches {beyond[0]} can run anything on the cluster: Ray requires no token"
    return Finding("warning", "authentication", found, TOKEN)


def main(address: str | None, root: str | None, output: str | None) -> None:
    """Print the findings, each as JSON on its own line."""
    for finding in examine(address, data_root(root), output):
        print(json.dumps(asdict(finding)), flush=True)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
