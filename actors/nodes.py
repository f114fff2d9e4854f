"""The nodes of the cluster: run a function once on each, and check which share a folder with this machine."""

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# How long a node may take to start a process and answer, in seconds.
ANSWER_SECONDS = 60.0


class Node(NamedTuple):
    """A node of the cluster.

    Attributes:
        id: Ray's.
        address: the node's.
        name: the address, with the start of the id if several nodes share it.
    """

    id: str
    address: str
    name: str


class Answers(NamedTuple):
    """The outcome of a function on every node.

    Attributes:
        found: what it returned.
        failed: the reason, for nodes where it failed.
    """

    found: dict[Node, Any]
    failed: dict[Node, str]


def nodes() -> list[Node]:
    """The nodes that Ray reports as alive, by name."""
    known = [(node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    sharers = Counter(address for _, address in known)
    named = [Node(id, at, f"{at} ({id[:6]})" if sharers[at] > 1 else at) for id, at in known]
    return sorted(named, key=lambda node: node.name)


def on_every_node(
    function: Callable[..., Any],
    *arguments: Any,
    among: Iterable[Node] | None = None,
    each: dict[Node, Any] | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Answers:
    """Run a function once on every node, even if all its CPUs are reserved.

    Args:
        function: what to run.
        arguments: its arguments.
        among: the nodes to run it on; by default all that are alive.
        each: one more argument for each node.
        seconds: nodes that take longer count as failed, and their calls are cancelled.
    """
    remote = ray.remote(function)
    calls = {}
    for node in nodes() if among is None else among:
        options = {
            "name": f"{function.__name__} on {node.name}",
            "num_cpus": 0,
            "max_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        }
        calls[node] = remote.options(**options).remote(*arguments, *([each[node]] if each else ()))
    done = set(ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds)[0]) if calls else set()
    found, failed = {}, {}
    for node, call in calls.items():
        try:
            if call in done:
                found[node] = ray.get(call)
                continue
            failed[node] = f"no answer in {seconds:g} s"
            with suppress(RayError):
                ray.cancel(call, force=True)
        except RayTaskError as error:
            failed[node] = f"{type(error.cause).__name__}: {error.cause}"
        except RayError as error:
            failed[node] = next(iter(str(error).splitlines()), type(error).__name__)
    return Answers(found, failed)


def unshared(folder: Path) -> list[str]:
    """The nodes on which a folder of this process is a different one, is missing, or cannot be written to.

    Raises:
        OSError: this process cannot write to it.
    """
    bad = sharing(folder)[1]
    alive = nodes()  # a node that was lost meanwhile does not count: no run will be on it
    return [node.name for node in bad if node in alive]


def sharing(folder: Path, among: Iterable[Node] | None = None) -> tuple[list[Node], dict[Node, str]]:
    """The nodes that share a folder with this process, and why the others do not.

    Each side writes a file that the other one has to find. The names are random, so that no cache of a network file
    system holds that they are missing.

    Raises:
        OSError: this process cannot write to the folder.
    """
    asked = nodes() if among is None else list(among)
    mark = secrets.token_hex(8)
    mine = folder.absolute() / f".byzray-{mark}"
    theirs = {node: f"{mine}-{node.id}" for node in asked}
    try:
        mine.write_text(mark)
        found, bad = on_every_node(reply, str(mine), mark, among=asked, each=theirs)
        for node, reason in found.items():
            if reason:
                bad[node] = reason
            elif not Path(theirs[node]).is_file():
                bad[node] = f"what it writes to {folder} is not visible here"
        return [node for node in asked if node not in bad], bad
    finally:
        for path in (mine, *map(Path, theirs.values())):
            with suppress(OSError):
                path.unlink()


def reply(path: str, mark: str, answer: str) -> str:
    """Read the file that another process wrote, and create another one; returns why that failed, or ""."""
    folder = os.path.dirname(path)
    try:
        with open(path) as file:
            if file.read() != mark:
                return f"{folder} is a different folder there"
    except FileNotFoundError:
        return f"{folder} is a different folder there" if os.path.isdir(folder) else f"{folder} is missing there"
    except OSError as error:
        return f"{folder} cannot be read there: {error.strerror}"
    try:
        with open(answer, "x"):
            return ""
    except OSError as error:
        return f"{folder} cannot be written to there: {error.strerror}"
