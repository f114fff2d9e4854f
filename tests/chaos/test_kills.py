"""One kill of each kind; `make chaos` runs a hundred, and tests of actors/ and sweeps/ some for daily use."""

import random
from collections.abc import Iterator
from pathlib import Path

import kills
import pytest
import ray
from chaos_processes import Outpost
from chaos_stage import FILES, PATIENCE, Stage, same
from ray.util.placement_group import placement_group, remove_placement_group

import actors
import byzray
from actors import Fleet, FleetError
from actors.fleet import split
from byzray.setups import Actors

# On a busy machine a kill may come too late; then another one is tried.
ATTEMPTS = 3


@pytest.fixture
def stage(ray_cluster: str, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, random.Random(0), kills.STEPS, ray.get_runtime_context().gcs_address)
    yield made
    made.forget_fleets()


@pytest.mark.chaos
@pytest.mark.parametrize("target", kills.TARGETS)
def test_nothing_is_lost_and_no_bit_changes(stage: Stage, target: str) -> None:
    for _ in range(ATTEMPTS):
        (outcome,) = kills.TARGETS[target](stage, 1)
        assert outcome.good, f"{outcome.run}: {outcome.ended}, identical: {outcome.identical} {outcome.note}"
        if outcome.losses:
            return
    raise AssertionError(f"no kill met a run in {ATTEMPTS} attempts")


@pytest.mark.chaos
def test_a_fleet_whose_node_is_lost_for_good_reports_that_there_is_no_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.fleet.PLACEMENT_SECONDS", 5.0)
    free = int(ray.available_resources()["CPU"])
    blocker = placement_group([{"CPU": free - 1.0}])
    outpost: Outpost | None = None
    try:
        ray.get(blocker.ready(), timeout=PATIENCE)
        outpost = Outpost(stage.address, 2, stage.folder)
        setup = stage.setup(3)
        with Fleet("stranded", split(5, 2), Actors(workers_per_actor=3, cpus_per_actor=1.0)) as fleet:
            kills_at_step = kills.KillsAtStep(stage.steps // 8, [(0.0, outpost.kill)])
            with pytest.raises(FleetError, match=r"no room for (server|workers).* after 5 s: the cluster has"):
                actors.simulate(setup, fleet=fleet, output=stage.folder / "lost", progress=kills_at_step)
            kills_at_step.end()
    finally:
        remove_placement_group(blocker)
        if outpost is not None:
            outpost.close()
    (status,) = stage.folder.glob("lost/*/status.json")
    assert '"failed"' in status.read_text()
    assert "no room for" in status.read_text()


def test_what_is_lost_or_wrong_is_counted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, random.Random(0), 32, "")
    with kills.trying(stage, "raises") as lost:
        raise ValueError("the run failed")
    wrong = kills.Outcome("another result", losses=1, ended="itself", identical=False)
    left = kills.Outcome("processes are left", losses=1, ended="resumed", identical=True, note="left behind")
    good = kills.Outcome("fine", losses=2, ended="itself", identical=True)
    assert [one.good for one in (lost, wrong, left, good)] == [False, False, False, True]
    assert "the run failed" in lost.note
    counted = dict(zip(kills.COLUMNS, kills.row([lost, wrong, left, good], 60.0), strict=True))
    expected = {"runs": "4", "hit": "3", "losses": "4", "by itself": "2", "resumed": "1", "identical": "2"}
    assert counted.items() >= {**expected, "lost": "1", "wrong": "2"}.items()


@pytest.mark.parametrize("name", FILES)
def test_one_bit_is_enough_to_be_wrong(tmp_path: Path, name: str) -> None:
    stage = Stage(tmp_path, random.Random(0), 32, "")
    whole = stage.whole(stage.setup(None))
    again = byzray.simulate(whole.setup, output=tmp_path / "again")
    assert same(whole, tmp_path / "again")
    assert again.directory is not None
    content = bytearray((again.directory / name).read_bytes())
    content[-2] ^= 1
    (again.directory / name).write_bytes(content)
    assert not same(whole, tmp_path / "again")
