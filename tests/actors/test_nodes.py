"""Functions on every node, and folders that nodes do or do not share."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import ray

from actors.nodes import Node, nodes, on_every_node, sharing, unshared


class Second(NamedTuple):
    """A second node, and folders that differ there."""

    id: str
    seen: Path
    other: Path
    readonly: Path
    missing: Path


@pytest.fixture(scope="module")
def second(start_node: Callable[..., str], can_mount: bool, tmp_path_factory: pytest.TempPathFactory) -> Second:
    if not can_mount:
        pytest.skip("starts a node that sees other files, which needs the right to mount: run the tests as root")
    folder = tmp_path_factory.mktemp("folders")
    below = folder / "below"
    locations = {name: folder / name for name in ("seen", "other", "readonly")} | {"missing": below / "missing"}
    for place in locations.values():
        place.mkdir(parents=True)
    before = f"""
        mount -t tmpfs none {locations["other"]} && mount -t tmpfs none {below}
        mount --bind {locations["readonly"]} {locations["readonly"]} && mount -o remount,ro,bind {locations["readonly"]}
    """
    return Second(start_node(before=before), **locations)


def test_a_function_on_every_node(second: Second) -> None:
    answers = on_every_node(where, "a")
    assert not answers.failed
    assert answers.found == {node: (node.id, "a") for node in nodes()}
    assert second.id in {node.id for node in answers.found}
    assert len({node.name for node in answers.found}) == len(answers.found)


def where(given: str) -> tuple[str, str]:
    return ray.get_runtime_context().get_node_id(), given


def test_nodes_that_fail_or_do_not_answer_are_named(second: Second) -> None:
    answers = on_every_node(misbehave, second.id, seconds=20)
    assert {node.id: reason for node, reason in answers.failed.items()} == {second.id: "ZeroDivisionError: no"}
    answers = on_every_node(sleep, second.id, seconds=6)
    assert {node.id: reason for node, reason in answers.failed.items()} == {second.id: "no answer in 6 s"}
    answers = on_every_node(vanish, second.id, seconds=20)
    assert [node.id for node in answers.failed] == [second.id]
    assert len(answers.found) == len(nodes()) - 1


def misbehave(bad: str) -> None:
    if ray.get_runtime_context().get_node_id() == bad:
        raise ZeroDivisionError("no")


def sleep(bad: str) -> None:
    if ray.get_runtime_context().get_node_id() == bad:
        time.sleep(1000)


def vanish(bad: str) -> None:
    if ray.get_runtime_context().get_node_id() == bad:
        os._exit(3)


def test_folders_that_are_not_shared(second: Second) -> None:
    assert unshared(second.seen) == []
    for folder, reason in (
        (second.other, "is a different folder there"),
        (second.missing, "is missing there"),
        (second.readonly, "cannot be written to there: Read-only file system"),
    ):
        shared, bad = sharing(folder)
        assert {node.id: why for node, why in bad.items()} == {second.id: f"{folder} {reason}"}
        assert {node.id for node in shared} == {node.id for node in nodes()} - {second.id}
        assert unshared(folder) == [node.name for node in nodes() if node.id == second.id]
    assert not [path for folder in second[1:] for path in folder.iterdir()]  # type: ignore[union-attr]


def test_a_node_that_was_lost_meanwhile_is_not_one_without_the_folder(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = nodes()[0]
    lost = Node("f" * 56, "192.0.2.77", "192.0.2.77")
    monkeypatch.setattr("actors.nodes.sharing", lambda folder: ([], {lost: "was lost", here: "is missing there"}))
    assert unshared(tmp_path) == [here.name]
