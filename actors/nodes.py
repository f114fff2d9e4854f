"""The nodes of the cluster: a function run once on each, and which of them see a folder of this machine."""

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
        name: the address, with the beginning of the id where several nodes share it.
    """

    id: str
    address: str
    name: str


class Answers(NamedTuple):
    """What came of a function on every node.

    Attributes:
        found: what it returned.
        failed: why there is none from the others.
    """

    found: dict[Node, Any]
    failed: dict[Node, str]


def nodes() -> list[Node]:
    """The nodes that the cluster believes to be alive, by name."""
    known = [(node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    sharers = Counter(address for _, address in known)
    named = [Node(id, at, f"{at} ({id[:6]})" if sharers[at] > 1 else at) for id, at in known]
    return sorted(named, key=lambda node: node.name)


def on_node(node: Node) -> dict[str, Any]:
    """The options of a task or actor that runs on a node, beside whatever else runs there, or not at all."""
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False)}


def on_every_node(
    function: Callable[..., Any],
    *arguments: Any,
    among: Iterable[Node] | None = None,
    each: dict[Node, Any] | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Answers:
    """Run a function once on every node.

    Args:
        function: what to run.
        arguments: what it is given.
        among: the nodes to run it on; by default all that are alive.
        each: what the function is given on each node, after `arguments`.
        seconds: nodes that take longer count as failed.
    """
    remote = ray.remote(function)
    calls = {}
    for node in nodes() if among is None else among:
        options = {"name": f"{function.__name__} on {node.name}", "max_retries": 0, **on_node(node)}
        calls[node] = remote.options(**options).remote(*arguments, *([each[node]] if each else ()))
    return answers(calls, seconds)


def answers(calls: dict[Node, Any], seconds: float = ANSWER_SECONDS) -> Answers:
    """What became of calls, one to each node; those that take longer are cancelled."""
    there = set(ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds)[0]) if calls else set()
    found, failed = {}, {}
    for node, call in calls.items():
        try:
            if call in there:
                found[node] = ray.get(call)
                continue
            failed[node] = f"no answer in {seconds:g} s"
        except RayTaskError as error:
            failed[node] = f"{type(error.cause).__name__}: {error.cause}"
        except RayError as error:
            failed[node] = next(iter(str(error).splitlines()), type(error).__name__)
    for call in calls.values():
        if call not in there:
            with suppress(RayError, ValueError):  # an actor has no such end
                ray.cancel(call, force=True)
    return Answers(found, failed)


def unshared(folder: Path) -> list[str]:
    """The nodes on which a folder of this process is another one, is missing, or cannot be written to.

    Raises:
        OSError: this process cannot write to it.
    """
    bad = sharing(folder)[1]
    alive = nodes()  # one that was lost meanwhile shares nothing, and computes nothing either
    return [node.name for node in bad if node in alive]


def sharing(folder: Path, among: Iterable[Node] | None = None) -> tuple[list[Node], dict[Node, str]]:
    """The nodes that share a folder with this process, and why the others do not.

    Both sides write a file that the other one has to find. The names are new, so that no cache of a network file system
    knows that they are missing.

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
                bad[node] = f"what it writes to {folder} is not seen here"
        return [node for node in asked if node not in bad], bad
    finally:
        for path in (mine, *map(Path, theirs.values())):
            with suppress(OSError):
                path.unlink()


def reply(path: str, mark: str, answer: str) -> str:
    """Answer a file that another process wrote with another one; returns why that cannot be done."""
    folder = os.path.dirname(path)
    try:
        with open(path) as file:
            if file.read() != mark:
                return f"{folder} is another folder there"
    except FileNotFoundError:
        return f"{folder} is another folder there" if os.path.isdir(folder) else f"{folder} is missing there"
    except OSError as error:
        return f"{folder} cannot be read there: {error.strerror}"
    try:
        with open(answer, "x"):
            return ""
    except OSError as error:
        return f"{folder} cannot be written to there: {error.strerror}"
