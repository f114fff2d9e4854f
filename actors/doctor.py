"""What a cluster can run: versions, devices, disks and connections of its nodes, with the mend for what is missing.

`byzray doctor` runs this module in a process of its own, which may hang or be killed. It then is ``__main__``, so that
Ray sends its functions by value, to nodes too where byzray is missing.
"""

import hashlib
import importlib.util
import json
import math
import os
import platform
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import ray

from actors.cluster import CONNECT_SECONDS, connect, nobody_at
from actors.group import LOOPBACK, Group, Meeting
from actors.imports import worker_environment
from actors.nodes import Node, answers, nodes, on_every_node, on_node, sharing
from byzray.commands.machine import Finding, State, load_all
from byzray.data import data_root
from byzray.datasets import Data

PACKAGES = ("byzray", "ray", "torch", "numpy")

# Nodes of a list that a finding names; of the others it tells how many they are.
NAMED = 4

# How long all nodes together may take to form a torch.distributed group, in seconds.
GROUP_SECONDS = 20.0

# How far clocks may be apart, in seconds: Prometheus and the dashboard order by time what nodes report.
CLOCK_SECONDS = 1.0

# Ray stores and spills nothing on a disk that is fuller.
FULL = 0.95

# Of Ray's reasons of a node's end: none is known, and a crash; the others are shut-downs in order, an autoscaler's say.
UNEXPECTED = (0, 2)

GIB = 2**30

SAME = "run the driver and every node from one image, or from one lock file"
RESTART = "start it again there: ray start --address=HEAD:6379"
TOKEN = "make a token (ray get-auth-token --generate), and start every node with it and with RAY_AUTH_MODE=token"
SHARE = "name a folder that all nodes mount (NFS, a ReadWriteMany volume), or a URI such as s3://bucket/prefix"
URI = "see that every node has the credentials, and reaches the storage"
NOT_NEEDED = "not needed: everything runs on CPUs"
PORTS = "let the nodes reach each other on all TCP ports: Ray and PyTorch take any that are free"
INTERFACE = "name the network's interface to PyTorch: GLOO_SOCKET_IFNAME=eth0, say, set before `ray start` on each node"


class Verdict(NamedTuple):
    """A finding about a node, without its name, so that equal ones can be told as one."""

    state: State
    found: str
    mend: str = ""


Verdicts = dict[Node, Verdict]
Looks = dict[Node, dict[str, Any]]


def examine(address: str | None, root: Path, output: str | None) -> Iterator[Finding]:
    """Look at the cluster at `address` or $RAY_ADDRESS; without one, see whether a cluster can be started here.

    Args:
        address: of a cluster, as Ray understands it.
        root: the folder that holds data sets.
        output: the folder or URI that results shall go to, if it was named.
    """
    where = address or os.environ.get("RAY_ADDRESS")
    reason = nobody_at(where) if where else ""
    dashboard: str | None = None
    try:
        if where and not reason:
            environment = worker_environment(where)
            dashboard = ray.init(address=where, log_to_driver=False, runtime_env=environment).dashboard_url
        elif not where:
            connect(dashboard=False, output=False)
    except Exception as error:
        reason = brief(str(error)) or type(error).__name__
    if reason:
        yield Finding("broken", "Ray", f"{where or 'started here'}: {reason}", mend_of(reason))
        return
    there, alive = ray.cluster_resources(), nodes()
    count = f"{len(alive)} node{'s' * (len(alive) > 1)}"
    room = f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
    yield Finding("ok", "Ray", f"{where or 'started here'}: {count}, {room}")
    if where:
        yield from look_at(alive, dashboard, root, output)


def mend_of(reason: str) -> str:
    """What to do where Ray does not connect."""
    nobody = ("answers there", "says nothing", "dashboard", "no HOST:PORT", "Could not find any", "Invalid address")
    if any(words in reason for words in nobody):
        return "start the cluster: ray start --head; or name one that runs: --address HOST:6379, or RAY_ADDRESS"
    if "ersion mismatch" in reason:
        return f"Ray and Python must be the same here and there, to the last digit: {SAME}"
    return (
        "if it asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN; "
        "`ray get-auth-token` prints it on the head"
    )


def look_at(alive: list[Node], dashboard: str | None, root: Path, output: str | None) -> Iterator[Finding]:
    """All that there is to see on a cluster."""
    known = {node["NodeID"]: node for node in ray.nodes()}
    yield from members(alive, known)
    looks, silent = on_every_node(look, among=alive)
    yield from told("no answer", {node: Verdict("broken", why, RESTART) for node, why in silent.items()}, alive)
    yield from versions(looks)
    able = [node for node in alive if node in looks and looks[node]["versions"]["byzray"] is not None]
    resources = {node: known[node.id]["Resources"] for node in looks}
    yield from told("GPU", {node: gpu(seen, resources[node].get("GPU", 0)) for node, seen in looks.items()}, alive)
    present, failed = on_every_node(data_there, str(root), among=able)
    largest = max((size for sets in present.values() for size in sets.values()), default=0)
    yield from told("object store", {n: store(seen, resources[n], largest) for n, seen in looks.items()}, alive)
    yield from told("disk", {node: disk(seen) for node, seen in looks.items()}, alive)
    there = {node: Verdict("ok", f"below {root}: {', '.join(sets) or 'none'}") for node, sets in present.items()}
    yield from told("data sets", there | {node: Verdict("warning", why) for node, why in failed.items()}, alive)
    yield from results(list(looks), output)
    yield from clocks(list(looks))
    yield from connections(able)
    yield authentication(looks)
    heads = [node for node in looks if "node:__internal_head__" in resources[node]]
    yield from services(heads, dashboard)


def told(what: str, verdicts: Verdicts, alive: Sequence[Node]) -> Iterator[Finding]:
    """Findings about nodes; equal ones are told once."""
    same: dict[Verdict, list[Node]] = {}
    for node, verdict in verdicts.items():
        same.setdefault(verdict, []).append(node)
    for (state, found, mend), those in same.items():
        yield Finding(state, what, f"{named(those, alive)}: {found}", mend)


def named(those: Sequence[Node], alive: Sequence[Node]) -> str:
    """Some of the nodes that are alive."""
    if len(those) == len(alive) > 1:
        return f"all {len(alive)} nodes"
    first = ", ".join(node.name for node in those[:NAMED])
    return first if len(those) <= NAMED else f"{len(those)} nodes ({first}, ...)"


def members(alive: list[Node], known: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """What Ray was told that nodes have, and why some are lost."""
    yield from told("nodes", {node: Verdict("ok", about(known[node.id])) for node in alive}, alive)
    addresses = {node.address for node in alive}
    lost = {
        Node(id, node["NodeManagerAddress"], node["NodeManagerAddress"]): Verdict(
            "warning", brief(node["DeathReasonMessage"]) or "Ray knows no reason", RESTART
        )
        for id, node in known.items()
        if not node["Alive"] and node["DeathReason"] in UNEXPECTED and node["NodeManagerAddress"] not in addresses
    }
    yield from told("lost nodes", lost, alive)


def about(node: dict[str, Any]) -> str:
    """What Ray was told that a node has."""
    has = node["Resources"]
    labels = ", ".join(f"{key}={value}" for key, value in sorted(node["Labels"].items()) if key != "ray.io/node-id")
    amounts = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs, {has.get('memory', 0) / GIB:.0f} GiB for actors"
    head = "head, " if "node:__internal_head__" in has else ""
    return f"{head}{amounts}{', ' if labels else ''}{labels}"


def brief(text: str) -> str:
    """A text of many lines on one, and not too long."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def look() -> dict[str, Any]:
    """What a process on a node sees around it."""
    # Older releases of Ray hide GPUs from tasks that reserve none.
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]
    try:
        import torch

        gpus: int | str = torch.cuda.device_count()
    except Exception as error:
        gpus = f"{type(error).__name__}: {error}"
    shared = Path("/dev/shm")
    return {
        "versions": installed(),
        "gpus": gpus,
        # Where Ray spills objects, unless told otherwise.
        "disk": shutil.disk_usage(temporary()),
        "shared": shutil.disk_usage(shared).total if shared.exists() else None,
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    }


def temporary() -> str:
    """The folder in which Ray keeps what is temporary on this node."""
    context = ray.get_runtime_context()
    if hasattr(context, "get_temp_dir"):
        return context.get_temp_dir()
    return os.environ.get("RAY_TMPDIR") or "/tmp"  # older releases do not say; "ray" is the folder in it


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


def versions(looks: Looks) -> Iterator[Finding]:
    """What is installed on nodes, and is another version than here."""
    here = installed()
    differ = False
    for package, mine in here.items():
        theirs: dict[str | None, list[Node]] = {}
        for node, seen in looks.items():
            theirs.setdefault(seen["versions"][package], []).append(node)
        for version, those in theirs.items():
            if version == mine:
                continue
            differ = True
            # Other code cannot be told what to do, or does something else; other libraries round differently.
            state: State = "broken" if package == "byzray" or version is None else "warning"
            found = f"{named(those, list(looks))}: {version or 'not installed'}; here: {mine or 'not installed'}"
            yield Finding(state, f"version of {package}", found, SAME)
    if not differ:
        yield Finding("ok", "versions", f"as here: {', '.join(f'{name} {one}' for name, one in here.items())}")


def gpu(seen: dict[str, Any], told: float) -> Verdict:
    """Whether PyTorch sees the GPUs that Ray was told of."""
    sees = seen["gpus"]
    if isinstance(sees, str):
        return Verdict("broken", f"PyTorch cannot be imported: {sees}", SAME)
    if sees < told:
        mend = "in Docker: --gpus all and the CUDA image; else a PyTorch for CUDA, and NVIDIA's driver (nvidia-smi)"
        return Verdict("broken", f"Ray was told of {told:g}, PyTorch sees {sees}", mend)
    if sees > told:
        return Verdict("warning", f"PyTorch sees {sees}, Ray was told of {told:g}", f"ray start --num-gpus={sees}")
    return Verdict("ok", f"{sees}, for Ray and PyTorch") if sees else Verdict("missing", "none", NOT_NEEDED)


def store(seen: dict[str, Any], resources: dict[str, float], largest: int) -> Verdict:
    """Whether Ray's object store, through which data sets go to the actors of a node, is in memory and large enough."""
    size, shared = resources.get("object_store_memory", 0.0), seen["shared"]
    found = f"{size / GIB:.1f} GiB"
    if size < largest:
        mend = f"ray start --object-store-memory={2 * largest}, or more"
        return Verdict(
            "warning", f"{found}, the largest data set has {largest / GIB:.2f} GiB: it goes by way of a disk", mend
        )
    if shared is not None and shared < size:
        mend = f"in Docker: --shm-size={-(-size * 1.1 // GIB):.0f}g; in Kubernetes: mount an emptyDir of medium Memory"
        return Verdict("warning", f"{found}, but /dev/shm has {shared / GIB:.2f} GiB: objects lie on a disk", mend)
    return Verdict("ok", f"{found}, enough for each data set that is there")


def disk(seen: dict[str, Any]) -> Verdict:
    """Whether there is room where Ray spills objects and logs."""
    _, used, free = seen["disk"]
    mend = "free some space, or let Ray use another folder: ray start --temp-dir=DIR"
    if used + free and used / (used + free) > FULL:
        return Verdict(
            "broken", f"{free / GIB:.1f} GiB free for Ray, which stores nothing on a disk that is {FULL:.0%} full", mend
        )
    if free < GIB:
        return Verdict("warning", f"{free / GIB:.1f} GiB free for Ray", mend)
    # In powers of two, so that nodes that are much alike are told together.
    return Verdict("ok", f"more than {2 ** int(math.log2(free / GIB))} GiB free for Ray")


def data_there(root: str) -> dict[str, int]:
    """The data sets that can be read on this node, and their sizes in bytes."""
    return {name: size(found) for name, found in load_all(Path(root)) if isinstance(found, Data)}


def size(data: Data) -> int:
    return sum(array.nbytes for array in (data.x_train, data.y_train, data.x_test, data.y_test))


def results(alive: list[Node], output: str | None) -> Iterator[Finding]:
    """Whether all nodes can write results where they shall go; by default that is a folder `results` here."""
    bad: State = "warning" if output is None else "broken"
    if output is not None and "://" in output:
        found, failed = on_every_node(at_uri, output, among=alive)
        verdicts = {node: Verdict("ok", "the URI answers") for node in found}
        verdicts |= {node: Verdict(bad, why, URI) for node, why in failed.items()}
    else:
        folder = Path(output or "results").absolute()
        while not folder.exists():  # a sweep makes it
            folder = folder.parent
        try:
            same, others = sharing(folder, alive)
        except OSError as error:
            yield Finding(
                bad, "results", f"{folder} cannot be written to here: {error.strerror}", "name another --output"
            )
            return
        fine = Verdict("ok", f"{folder} can be written to, {shutil.disk_usage(folder).free / GIB:.0f} GiB free")
        verdicts = dict.fromkeys(same, fine)
        verdicts |= {node: Verdict(bad, why, SHARE) for node, why in others.items()}
    yield from told("results", verdicts, alive)


def at_uri(uri: str) -> None:
    from pyarrow.fs import FileSystem  # there, as this also brings in S3

    filesystem, path = FileSystem.from_uri(uri)
    filesystem.get_file_info(path)


def clocks(alive: list[Node]) -> Iterator[Finding]:
    """Whether the clocks of nodes agree with that of this machine."""
    before = time.time()
    found, _ = on_every_node(clock, among=alive)
    after = time.time()
    verdicts = {}
    for node, then in found.items():  # some time between the two
        if then < before - CLOCK_SECONDS:
            verdicts[node] = Verdict(
                "warning", f"{before - then:.0f} s behind that here", "synchronise them: chrony, say"
            )
        elif then > after + CLOCK_SECONDS:
            verdicts[node] = Verdict(
                "warning", f"{then - after:.0f} s ahead of that here", "synchronise them: chrony, say"
            )
        else:
            apart = math.ceil(max(after - then, then - before, CLOCK_SECONDS))
            verdicts[node] = Verdict("ok", f"less than {apart} s from that here")
    yield from told("clock", verdicts, alive)


def clock() -> float:
    return time.time()


class Envoy(Group):
    """An actor on a node, which connects to those on the others as the actors of a fleet do."""

    def listen(self, address: str) -> int:
        """Listen on a port that is free, as all that connect to it do not need an answer."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.create_server(("", 0), family=family)
        return int(self._listening.getsockname()[1])

    def unreachable(self, places: list[tuple[str, int]]) -> list[int]:
        """Which of some addresses and ports cannot be connected to."""
        with ThreadPoolExecutor(len(places)) as pool:
            return [index for index, reached in enumerate(pool.map(reaches, places)) if not reached]


def reaches(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def connections(alive: list[Node]) -> Iterator[Finding]:
    """Whether processes on any two nodes can connect, and all form a torch.distributed group, as fleets do."""
    if len(alive) < 2:
        return
    envoys: dict[Node, Any] = {node: ray.remote(Envoy).options(**on_node(node)).remote() for node in alive}
    ports, failed = answers({node: envoy.listen.remote(node.address) for node, envoy in envoys.items()})
    places = [(node.address, port) for node, port in ports.items()]
    found, more = answers({node: envoys[node].unreachable.remote(places) for node in ports})
    failed |= more
    listening = list(ports)
    for node, far in found.items():
        if far:
            failed[node] = f"cannot connect to {named([listening[index] for index in far], alive)}"
    if failed:
        yield from told("connections", {node: Verdict("broken", why, PORTS) for node, why in failed.items()}, alive)
        return
    host = LOOPBACK if len({node.address for node in alive}) == 1 else alive[0].address
    meeting = Meeting(len(alive), frozenset(), "gloo", host, GROUP_SECONDS)
    served, failed = answers({alive[0]: envoys[alive[0]].serve.remote(meeting)})
    if not failed:
        port, path = served[alive[0]]
        joins = {node: envoys[node].join.remote(meeting, port, path, rank) for rank, node in enumerate(alive)}
        _, failed = answers(joins, 2 * GROUP_SECONDS)
    verdicts = dict.fromkeys(alive, Verdict("ok", "reach each other, and form a torch.distributed group"))
    verdicts |= {node: Verdict("broken", brief(why), INTERFACE) for node, why in failed.items()}
    yield from told("connections", verdicts, alive)


def authentication(looks: Looks) -> Finding:
    """Whether Ray asks for a token, which it should where others can reach it."""
    if all(seen["token"] for seen in looks.values()):
        return Finding("ok", "authentication", "Ray asks for its token")
    beyond = [node.address for node in looks if not node.address.startswith("127.")]
    if not beyond:
        return Finding("ok", "authentication", "Ray asks for no token; it can be reached from this machine only")
    found = f"whoever reaches {beyond[0]} can run anything on the cluster: Ray asks for no token"
    return Finding("warning", "authentication", found, TOKEN)


def services(heads: list[Node], dashboard: str | None) -> Iterator[Finding]:
    """Whether the dashboard answers, and finds Prometheus and Grafana where the head was told."""
    if not (heads and dashboard):
        yield Finding("missing", "dashboard", "none", "on the head: pip install 'ray[default]', and ray start --head")
        return
    found, _ = on_every_node(asked, dashboard, among=heads)
    seen: dict[str, Any] = next(iter(found.values()), {})
    if not seen.get("dashboard"):
        yield Finding("missing", "dashboard", f"http://{dashboard} does not answer", "see dashboard.log in Ray's logs")
        return
    if status(f"http://{dashboard}"):
        yield Finding("ok", "dashboard", f"http://{dashboard}")
    else:
        mend = f"from here: ssh -L 8265:{dashboard} HEAD, then http://127.0.0.1:8265"
        yield Finding("ok", "dashboard", f"http://{dashboard}, on the head only", mend)
    for what in ("Prometheus", "Grafana"):
        answered, where = seen[what]
        mend = f"docker/compose.yaml has one; else set RAY_{what.upper()}_HOST where the head starts"
        state: State = "ok" if answered else "missing"
        yield Finding(state, what, f"{where}{'' if answered else ' does not answer'}", "" if answered else mend)


def asked(dashboard: str) -> dict[str, Any]:
    """What the dashboard says, asked on the head: whether it answers, and finds Prometheus and Grafana."""
    found: dict[str, Any] = {"dashboard": status(f"http://{dashboard}")}
    for what, otherwise in (("Prometheus", "http://localhost:9090"), ("Grafana", "http://localhost:3000")):
        told = os.environ.get(f"RAY_{what.upper()}_HOST", otherwise)
        found[what] = status(f"http://{dashboard}/api/{what.lower()}_health") == 200, told
    return found


def status(url: str) -> int:
    """The status of an answer; 0 if there is none."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token()}"} if token() else {})
    try:
        with urllib.request.urlopen(request, timeout=2 * CONNECT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def token() -> str:
    """The token of this process, from where Ray looks for it."""
    if said := os.environ.get("RAY_AUTH_TOKEN"):
        return said
    path = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"))
    return path.read_text().strip() if path.is_file() else ""


def main(address: str | None, root: str | None, output: str | None) -> None:
    """Print the findings, each as JSON on a line of its own."""
    for finding in examine(address, data_root(root), output):
        print(json.dumps(asdict(finding)), flush=True)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
