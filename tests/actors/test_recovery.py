"""Actors that die or hang in the middle of a run: it continues, and no bit changes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actors
from actors import Fleet, FleetError, Supervision
from actors.fleet import split
from actors.rendezvous import LOOPBACK, Rendezvous
from actors.simulation import FleetSimulation
from byzray import Setup, Update, simulate
from byzray.runs.checkpoints import CheckpointInterval
from byzray.setups import Actors

FILES = ("metrics.csv", "evaluations.csv", "parameters.npy")

LONG = pytest.mark.chaos

PLACEMENTS = ("worker", pytest.param("server", marks=LONG), pytest.param("update", marks=LONG))


@pytest.fixture(scope="module")
def mortal(ray_cluster: str) -> Iterator[Fleet]:
    """Two worker actors and a server that tests may kill; they time out after four seconds."""
    supervision = Supervision(restarts=2, deadline=4.0)
    with Fleet("mortal", split(5, 2), Actors(cpus_per_actor=0.1), supervision=supervision) as fleet:
        yield fleet


def at_step(step: int, do: Callable[[], None]) -> Callable[[Update], None]:
    """Does something once, when a run has reached a step."""
    pending = [do]

    def progress(update: Update) -> None:
        if update.step >= step and pending:
            pending.pop()()

    return progress


def kill(fleet: Fleet, rank: int, number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    return lambda: os.kill(fleet.locations[rank]["pid"], number)


def same(first: Path | None, second: Path | None) -> None:
    assert first is not None
    assert second is not None
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_worker_that_dies_is_replaced_and_no_bit_changes(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, placement: str
) -> None:
    setup = small_setup.changed(momentum={"placement": placement, "nesterov": True})
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    progress = at_step(5, kill(mortal, 2))
    lost = actors.simulate(setup, fleet=mortal, output=tmp_path / "lost", progress=progress).directory
    same(whole, lost)
    assert lost is not None
    log = (lost / "log.txt").read_text()
    assert "actor 'workers 3-4' was lost (process" in log
    assert "continues from step" not in log


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_server_that_dies_is_restored_from_the_last_checkpoint(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, placement: str
) -> None:
    setup = small_setup.changed(momentum={"placement": placement})
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    options: dict[str, Any] = {"progress": at_step(6, kill(mortal, 0)), "checkpoints": CheckpointInterval(steps=4)}
    lost = actors.simulate(setup, fleet=mortal, output=tmp_path / "lost", **options).directory
    same(whole, lost)
    assert lost is not None
    log = (lost / "log.txt").read_text()
    assert "actor 'server' was lost (process" in log
    assert "continues from step 4" in log


def test_a_server_that_dies_before_any_checkpoint_starts_over(mortal: Fleet, small_setup: Setup) -> None:
    whole = actors.simulate(small_setup, fleet=mortal)
    lost = actors.simulate(small_setup, fleet=mortal, progress=at_step(5, kill(mortal, 0)))
    assert np.array_equal(whole.parameters, lost.parameters)
    assert whole.metrics.equals(lost.metrics)
    assert whole.evaluations.equals(lost.evaluations)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=LONG)])
def test_an_actor_that_hangs_is_noticed_by_the_deadline(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, rank: int
) -> None:
    whole = actors.simulate(small_setup, fleet=mortal, output=tmp_path / "whole").directory
    progress = at_step(5, kill(mortal, rank, signal.SIGSTOP))
    lost = actors.simulate(small_setup, fleet=mortal, output=tmp_path / "lost", progress=progress).directory
    same(whole, lost)
    assert lost is not None
    assert f"actor {mortal.roles[rank]!r} was lost" in (lost / "log.txt").read_text()


@LONG
def test_a_fleet_that_hangs_as_a_whole_is_noticed_too(mortal: Fleet, small_setup: Setup, tmp_path: Path) -> None:
    whole = actors.simulate(small_setup, fleet=mortal, output=tmp_path / "whole").directory

    def stop_all() -> None:
        for rank in range(3):
            kill(mortal, rank, signal.SIGSTOP)()

    options: dict[str, Any] = {"progress": at_step(5, stop_all), "checkpoints": CheckpointInterval(steps=4)}
    same(whole, actors.simulate(small_setup, fleet=mortal, output=tmp_path / "lost", **options).directory)


@LONG
@pytest.mark.parametrize("rank", [0, 1])
def test_an_actor_that_hangs_in_an_evaluation_is_noticed(
    mortal: Fleet, small_setup: Setup, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr("actors.supervision.START_SECONDS", 10.0)
    whole = actors.simulate(small_setup, fleet=mortal)
    evaluate, pending = FleetSimulation._evaluate, [kill(mortal, rank, signal.SIGSTOP)]

    def stop_and_evaluate(self: FleetSimulation) -> float:
        if self.step_number and pending:
            pending.pop()()
        return evaluate(self)

    monkeypatch.setattr(FleetSimulation, "_evaluate", stop_and_evaluate)
    again = actors.simulate(small_setup, fleet=mortal)
    assert not pending
    assert np.array_equal(whole.parameters, again.parameters)
    assert whole.evaluations.equals(again.evaluations)


@LONG
def test_actors_that_die_while_idle_are_replaced_before_the_next_run(mortal: Fleet, small_setup: Setup) -> None:
    whole = actors.simulate(small_setup, fleet=mortal)
    for rank in (1, 0):
        kill(mortal, rank)()
        time.sleep(4)  # the actor has been restarted, but the fleet does not know
        again = actors.simulate(small_setup, fleet=mortal)
        assert np.array_equal(whole.parameters, again.parameters)
        assert whole.metrics.equals(again.metrics)


@LONG
def test_an_actor_that_dies_and_is_back_between_two_stretches(mortal: Fleet, small_setup: Setup) -> None:
    whole = actors.simulate(small_setup, fleet=mortal)
    for rank in (1, 0):

        def kill_and_wait(rank: int = rank) -> None:
            kill(mortal, rank)()
            time.sleep(4)

        again = actors.simulate(small_setup, fleet=mortal, progress=at_step(5, kill_and_wait))
        assert np.array_equal(whole.parameters, again.parameters)
        assert whole.metrics.equals(again.metrics)


def test_a_lost_last_reply_is_requested_again(
    mortal: Fleet, small_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies after the last signal of its steps: the server has replied already."""
    whole = actors.simulate(small_setup, fleet=mortal)
    call, pending = mortal.call, [True]

    def lose_the_reply(references: Any, *given: float, **more: float) -> list[Any]:
        found = call(references, *given, **more)
        if len(references) == 3 and pending and hasattr(found[0], "rows") and found[0].step >= 4:
            pending.pop()
            mortal.connected = False
            raise actors.supervision.ActorLost("by the test")
        return found

    monkeypatch.setattr(mortal, "call", lose_the_reply)
    again = actors.simulate(small_setup, fleet=mortal)
    assert not pending
    assert np.array_equal(whole.parameters, again.parameters)
    assert whole.metrics.equals(again.metrics)


def normalising(tmp_path: Path) -> Setup:
    """A setup whose workers use BatchNorm."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3, 32, 32)).astype(np.float32), rng.integers(0, 2, 24)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    return Setup.model_validate(
        {
            "dataset": {"name": "npz", "path": str(tmp_path / "images.npz")},
            "model": {"name": "empire-cnn", "hidden": 4, "training": True},
            "batch_size": 2,
            "steps": 5,
            "workers": 3,
            "aggregator": "average",
            "evaluation_interval": 1,
        }
    )


def test_batch_statistics_are_restored_too(mortal: Fleet, tmp_path: Path) -> None:
    setup = normalising(tmp_path)
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    lost = actors.simulate(
        setup, fleet=mortal, output=tmp_path / "lost", progress=at_step(3, kill(mortal, 1))
    ).directory
    same(whole, lost)


def test_actors_elsewhere_are_replaced_as_well(
    small_setup: Setup, tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the first two of three worker actors were on other machines than the server.
    monkeypatch.setattr(
        "actors.fleet.plan", lambda locations, deadline: Rendezvous(4, frozenset({3}), "gloo", LOOPBACK, deadline)
    )
    whole = None
    with Fleet("apart", split(5, 3), Actors(cpus_per_actor=0.1), supervision=Supervision(deadline=5.0)) as apart:
        for index, (rank, number) in enumerate([(None, signal.SIGKILL), (1, signal.SIGKILL), (3, signal.SIGKILL)]):
            options = {} if rank is None else {"progress": at_step(5, kill(apart, rank, number))}
            found = actors.simulate(small_setup, fleet=apart, output=tmp_path / str(index), **options).directory
            whole = whole or found
            same(whole, found)


def test_after_too_many_restarts_the_run_fails_with_all_events(
    mortal: Fleet, small_setup: Setup, tmp_path: Path
) -> None:
    def kill_always(update: Update) -> None:
        if update.step:
            kill(mortal, 1)()

    with pytest.raises(FleetError, match="actors were lost more than 2 times"):
        actors.simulate(small_setup, fleet=mortal, output=tmp_path, progress=kill_always)
    (directory,) = tmp_path.iterdir()
    log = (directory / "log.txt").read_text()
    assert log.count("actor 'workers 0-2' was lost (process") >= 2
    assert "actors were lost more than 2 times" in log
    # The run can be continued, and the fleet can still be used.
    again = actors.simulate(small_setup, fleet=mortal, output=tmp_path, resume=True)
    assert np.array_equal(again.parameters, actors.simulate(small_setup, fleet=mortal).parameters)


@pytest.mark.parametrize("missing", [pytest.param("recover", marks=LONG), pytest.param("zero", marks=LONG), "drop"])
def test_declared_crashes_and_hangs_happen_and_the_result_is_that_of_one_process(
    mortal: Fleet, small_setup: Setup, missing: str
) -> None:
    faults = {
        "missing": missing,
        "events": [
            {"kind": "crash", "workers": [0], "steps": [2]},
            {"kind": "crash", "workers": [2], "steps": [5]},
            {"kind": "hang", "workers": [4], "steps": 7},
            {"kind": "silent", "workers": [3], "steps": "9-10"},
        ],
    }
    setup = small_setup.changed(faults=faults, aggregator="median")
    processes = [place["pid"] for place in mortal.locations]
    apart, together = actors.simulate(setup, fleet=mortal), simulate(setup)
    assert mortal.locations[0]["pid"] == processes[0]
    assert not {place["pid"] for place in mortal.locations[1:]} & set(processes)
    np.testing.assert_allclose(apart.parameters, together.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(apart.metrics["Average loss"], together.metrics["Average loss"], rtol=1e-4)
    assert apart.metrics["Training point count"].equals(together.metrics["Training point count"])
    assert apart.faults is not None
    assert len(apart.faults) == 5
    if missing == "recover":
        undisturbed = actors.simulate(setup.changed(faults=None), fleet=mortal)
        assert np.array_equal(apart.parameters, undisturbed.parameters)
        assert apart.metrics.equals(undisturbed.metrics)


@LONG
def test_a_server_that_dies_before_the_first_or_after_the_last_step(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = actors.simulate(small_setup, fleet=mortal, output=tmp_path / "whole").directory
    options: dict[str, Any] = {"progress": at_step(small_setup.steps, kill(mortal, 0))}
    same(whole, actors.simulate(small_setup, fleet=mortal, output=tmp_path / "last", **options).directory)

    class Dies(FleetSimulation):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kill(mortal, 0)()

    monkeypatch.setattr("actors.simulation.FleetSimulation", Dies)
    same(whole, actors.simulate(small_setup, fleet=mortal, output=tmp_path / "first").directory)


@LONG
def test_real_losses_where_a_crash_is_declared_are_counted(
    mortal: Fleet, small_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = small_setup.changed(faults={"events": [{"kind": "crash", "workers": [0], "steps": 5}]})
    restore = FleetSimulation._restore

    def restore_and_kill(self: FleetSimulation, state: Any, step: int) -> None:
        restore(self, state, step)
        kill(mortal, 1)()

    monkeypatch.setattr(FleetSimulation, "_restore", restore_and_kill)
    with pytest.raises(FleetError, match="actors were lost more than 2 times"):
        actors.simulate(setup, fleet=mortal)


@LONG
def test_a_server_that_hangs_after_the_workers_last_signal_is_noticed(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging_rule.py").write_text(
        "import os, signal\nfrom pathlib import Path\n\nfrom byzray.aggregators import Median\n\n\n"
        "class Hanging(Median):\n"
        "    def aggregate(self, submissions, f):\n"
        f"        first = Path({str(tmp_path / 'first')!r})\n"
        "        if not first.exists():\n"
        "            first.touch()\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        return super().aggregate(submissions, f)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    setup = small_setup.changed(aggregator="hanging_rule:Hanging")
    hung = actors.simulate(setup, fleet=mortal)  # in the first call, which takes a single step
    assert np.array_equal(hung.parameters, actors.simulate(setup, fleet=mortal).parameters)


# Kills its own process, once, where a Byzantine worker prepares the batch of step 6: in the middle of that step.
DYING = """
import os, signal
from pathlib import Path

from byzray.attacks.label_flipping import LabelFlipping


class Dying(LabelFlipping):
    flag: str

    def poison(self, batch, classes, worker, step, generator):
        if step == 6 and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().poison(batch, classes, worker, step, generator)


class Negating(Dying):
    def __call__(self, honest_HD, view):
        return -view.own_FD
"""


@pytest.mark.parametrize("attack", ["Dying", "Negating"])
@pytest.mark.parametrize("placement", ["worker", pytest.param("server", marks=LONG)])
def test_byzantine_workers_that_train_get_their_own_momentum_back(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, placement: str
) -> None:
    (tmp_path / "dying_attack.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    flag = tmp_path / "died"
    options = {"name": f"dying_attack:{attack}", "flag": str(flag)}
    setup = small_setup.changed(attack=options, momentum={"placement": placement})
    lost = actors.simulate(setup, fleet=mortal, output=tmp_path / "lost").directory
    assert flag.exists()
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    same(whole, lost)
    assert lost is not None
    assert f"actor {mortal.roles[2]!r} was lost (process" in (lost / "log.txt").read_text()


STATEFUL: dict[str, dict[str, Any]] = {
    "rule": {"aggregator": "centred-clipping", "attack": {"name": "little", "factor": "searched", "evaluations": 4}},
    "root worker": {"aggregator": {"name": "fltrust", "root": 20}, "attack": "label-flipping"},
    "attack": {"attack": {"name": "mimic", "warmup": 8}, "split": {"name": "dirichlet", "minimum": 3}},
    "mvr": {"momentum": {"name": "mvr", "a": 0.2}},
    "nnm, gaussian": {"pre": "nnm", "aggregator": "median", "attack": "gaussian"},
    "bucketing": {"pre": "bucketing", "aggregator": "median", "byzantine": 1},
    "label-flipping, update": {"attack": "label-flipping", "momentum": {"placement": "update", "nesterov": True}},
}


@pytest.mark.parametrize("kind", [pytest.param(one, marks=LONG if one == "bucketing" else ()) for one in STATEFUL])
def test_all_state_outlasts_a_worker_and_the_server(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, kind: str
) -> None:
    setup = small_setup.changed(**STATEFUL[kind])
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    for rank in (2, 0):
        options: dict[str, Any] = {
            "progress": at_step(6, kill(mortal, rank)),
            "checkpoints": CheckpointInterval(steps=4),
        }
        lost = actors.simulate(setup, fleet=mortal, output=tmp_path / f"lost {rank}", **options).directory
        same(whole, lost)
        assert lost is not None
        assert ("continues from step 4" in (lost / "log.txt").read_text()) == (rank == 0)
        assert f"actor {mortal.roles[rank]!r} was lost" in (lost / "log.txt").read_text()


def test_a_rule_of_the_users_own_whose_error_mentions_a_connection_is_not_a_lost_actor(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative_rule.py").write_text(
        "from byzray.aggregators import Median\n\n\nclass Talkative(Median):\n"
        "    def aggregate(self, submissions, f):\n"
        "        raise RuntimeError('Connection to my database timed out')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="my database"):
        actors.simulate(small_setup.changed(aggregator="talkative_rule:Talkative"), fleet=mortal)


def test_a_run_that_stops_where_it_diverges_leaves_the_fleet_usable(mortal: Fleet, small_setup: Setup) -> None:
    setup = small_setup.changed(attack="nan", aggregator="average", divergence="stop", evaluation_interval=0)
    before = actors.simulate(small_setup, fleet=mortal)
    result = actors.simulate(setup, fleet=mortal)
    assert result.diverged is not None
    assert len(result.metrics) == 1
    after = actors.simulate(small_setup, fleet=mortal)
    assert np.array_equal(before.parameters, after.parameters)


@pytest.mark.parametrize(
    "options",
    [
        {"attack": "label-flipping", "byzantine": 1},
        pytest.param({"momentum": {"name": "mvr", "a": 0.2}, "attack": "label-flipping", "byzantine": 1}, marks=LONG),
    ],
    ids=["heavy-ball", "mvr"],
)
def test_batch_statistics_of_all_that_train_outlast_a_worker_and_the_server(
    mortal: Fleet, tmp_path: Path, options: dict[str, Any]
) -> None:
    setup = normalising(tmp_path).changed(workers=5, aggregator="median", **options)
    whole = actors.simulate(setup, fleet=mortal, output=tmp_path / "whole").directory
    for rank in (2, 0):
        more: dict[str, Any] = {"progress": at_step(3, kill(mortal, rank)), "checkpoints": CheckpointInterval(steps=2)}
        lost = actors.simulate(setup, fleet=mortal, output=tmp_path / f"lost {rank}", **more).directory
        same(whole, lost)
        assert lost is not None
        assert f"actor {mortal.roles[rank]!r} was lost (process" in (lost / "log.txt").read_text()


DRAWING = """
from pathlib import Path

from byzray.attacks.label_flipping import LabelFlipping
from byzray.sampling import Batch


class Drawing(LabelFlipping):
    folder: str

    def poison(self, batch, classes, worker, step, generator):
        drawn = int(generator.integers(2**60))
        with Path(self.folder, f"{worker} {step}").open("a") as file:
            file.write(f"{drawn}\\n")
        return Batch(batch.x, (batch.y + drawn) % classes)
"""


def test_byzantine_workers_draw_the_same_again_after_a_kill(
    mortal: Fleet, small_setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawing_attack.py").write_text(DRAWING)
    monkeypatch.syspath_prepend(tmp_path)

    def drawn(name: str, progress: Callable[[Update], None] | None, **more: Any) -> tuple[dict[str, list[str]], Any]:
        (folder := tmp_path / name).mkdir()
        setup = small_setup.changed(attack={"name": "drawing_attack:Drawing", "folder": str(folder)}, local_steps=2)
        result = actors.simulate(setup, fleet=mortal, progress=progress, **more)
        return {file.name: file.read_text().split() for file in folder.iterdir()}, result.parameters

    found, parameters = drawn("whole", None)
    assert set(found) == {f"{worker} {step}" for worker in (5, 6) for step in range(12)}
    for rank in (2, 0):
        again, same_parameters = drawn(f"lost {rank}", at_step(5, kill(mortal, rank)))
        assert {name: list(dict.fromkeys(draws)) for name, draws in again.items()} == found
        assert np.array_equal(same_parameters, parameters)
        # Some steps were repeated.
        assert rank == 2 or any(len(draws) > 2 for draws in again.values())
