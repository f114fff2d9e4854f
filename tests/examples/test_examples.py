"""The setups and the sweeps of examples/: they load and run; what they name as own classes continues after a stop."""

import warnings
from pathlib import Path

import pytest

from byzray import Interrupted, Result, Setup, load_setup, simulate
from byzray.runs.checkpoints import CheckpointInterval
from byzray.runs.digests import FINAL_FILES
from byzray.yaml import read_yaml
from sweeps.definition import load_sweep

EXAMPLES = Path(__file__).parents[2] / "examples"
SWEEPS = sorted(path.name for path in EXAMPLES.glob("*.yaml") if "seeds" in read_yaml(path))
SETUPS = sorted(path.name for path in EXAMPLES.glob("*.yaml") if path.name not in SWEEPS)
STEPS = 30


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a setup joins sys.path: for this test alone."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def files(result: Result) -> dict[str, bytes]:
    """What must be the same, to the byte."""
    assert result.directory is not None
    return {name: (result.directory / name).read_bytes() for name in FINAL_FILES if (result.directory / name).exists()}


def own(**changes: object) -> Setup:
    return load_setup(EXAMPLES / "own.yaml", {"steps": STEPS, "actors": "none", "evaluation_interval": 10, **changes})


@pytest.mark.parametrize("name", SETUPS)
def test_setups_load(name: str) -> None:
    assert load_setup(EXAMPLES / name).steps >= 100


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_load(name: str) -> None:
    sweep = load_sweep(str(EXAMPLES / name))
    assert sweep.setups() or sweep.search


def test_own_rule_and_attack_continue_where_they_stopped(tmp_path: Path) -> None:
    setup = own(**{"attack.chance": 0.3})
    whole = files(simulate(setup, output=tmp_path / "whole"))
    assert len(whole) == 3
    for stop in (1, 7, 20):
        with pytest.raises(Interrupted):
            simulate(
                setup,
                output=tmp_path / "parts",
                progress=lambda update, stop=stop: update.step >= stop,
                checkpoints=CheckpointInterval(steps=1),
                resume=True,
            )
    assert files(simulate(setup, output=tmp_path / "parts", resume=True)) == whole


def test_own_rule_and_attack_keep_to_what_is_asked_of_them() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = simulate(own(**{"attack.chance": 0.3}))
    signs = result.metrics["Honest-attack cosine"].round()
    assert set(signs) == {-1, 1}, "the sign switches"
    assert result.metrics["Defense gradient norm"].notna().all()


@pytest.mark.parametrize("attack", ["nan", {"name": "empire", "factor": "searched", "evaluations": 4}])
def test_own_rule_stands_hostile_submissions(attack: object) -> None:
    assert simulate(own(attack=attack)).metrics["Defense gradient norm"].notna().all()


def test_pre_aggregators_help_where_data_differ() -> None:
    setup = load_setup(EXAMPLES / "heterogeneous.yaml", {"steps": 100, "actors": "none", "study": "off"})
    mixed, alone = simulate(setup).best_accuracy, simulate(setup.changed(pre=[])).best_accuracy
    assert mixed > alone + 0.2


def test_the_sweep_over_pre_aggregators_runs() -> None:
    sweep = load_sweep(str(EXAMPLES / "heterogeneous-sweep.yaml"))
    setups = sweep.setups()
    pres = {(setup.defence.label(), setup.split.describe()["alpha"]) for setup in setups if setup.byzantine}
    assert ("median", 1.0) in pres
    assert ("nnm+median", 1.0) not in pres, "a condition on the option of the split"
    sizes = {(setup.byzantine, part.describe().get("size")) for setup in setups for part in setup.pre}
    assert sizes == {(2, None), (2, 2), (2, 3), (3, None), (3, 2)}, "and of `pre`"
    for setup in setups:
        if setup.aggregator.label() != "trimmed-mean":
            assert len(simulate(setup.changed(steps=2)).metrics) == 2
