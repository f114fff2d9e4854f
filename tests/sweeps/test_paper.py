"""The paper's grids: counts, and setups as the paper and its published code state them."""

from collections import Counter
from pathlib import Path

import pytest

from byzray import Setup, load_setup
from sweeps.definition import load_sweep

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def paper() -> list[Setup]:
    return load_sweep("paper").setups()


def test_counts(paper: list[Setup]) -> None:
    assert len(paper) == 736
    assert len({setup.digest() for setup in paper}) == 736
    assert Counter(setup.dataset.label() for setup in paper) == dict.fromkeys(
        ("mnist", "fashion-mnist", "cifar10", "cifar100"), 184
    )
    attacked = [setup for setup in paper if setup.attack is not None]
    assert len(attacked) == 704
    assert Counter(setup.aggregator.label() for setup in attacked) == {
        **dict.fromkeys(("multi-krum", "median", "trimmed-mean", "phocas", "meamed"), 128),
        "bulyan": 64,
    }
    assert Counter(setup.momentum.placement for setup in attacked) == {"update": 352, "worker": 352}
    assert load_sweep("paper").seeds == (1, 2, 3, 4, 5)


def test_a_panel_has_its_reference(paper: list[Setup]) -> None:
    only = ("dataset == 'mnist' and f == 24 and rate == 0.5 and not nesterov",)
    panel = load_sweep("paper").setups(only)
    assert len(panel) == 21
    assert (
        len(load_sweep("paper").setups(("dataset == 'fashion-mnist' and f == 12 and rate == .5", "not nesterov"))) == 25
    )
    (reference,) = [setup for setup in panel if setup.attack is None]
    assert reference in paper
    assert (reference.workers, reference.byzantine, reference.aggregator.label()) == (27, 0, "average")
    assert reference.momentum.placement == "update"


def test_the_examples_are_setups_of_the_paper(paper: list[Setup]) -> None:
    digests = {setup.digest() for setup in paper}
    for name in ("mnist", "cifar10"):
        assert load_setup(EXAMPLES / f"{name}.yaml", {"actors": None, "seed": 1}).digest() in digests


@pytest.mark.parametrize(
    ("dataset", "f", "expected"),
    [
        (
            "fashion-mnist",
            12,
            {
                "n": 51,
                "batch": 83,
                "clip": 2.0,
                "l2": 1e-8,
                "steps": 300,
                "every": 5,
                "past": 150,
                "mu": 0.9,
                "h": 5000,
            },
        ),
        (
            "cifar100",
            5,
            {
                "n": 25,
                "batch": 50,
                "clip": 5.0,
                "l2": 1e-4,
                "steps": 3000,
                "every": 100,
                "past": 25,
                "mu": 0.99,
                "h": 167,
            },
        ),
    ],
)
def test_fields(paper: list[Setup], dataset: str, f: int, expected: dict[str, float]) -> None:
    chosen = [setup for setup in paper if setup.dataset.label() == dataset and setup.byzantine == f]
    assert len(chosen) == 96
    for setup in chosen:
        assert setup.study is not None
        assert expected == {
            "n": setup.workers,
            "batch": setup.batch_size,
            "clip": setup.clip,
            "l2": setup.l2,
            "steps": setup.steps,
            "every": setup.evaluation_interval,
            "past": setup.study.past,
            "mu": setup.momentum.beta,
            "h": setup.learning_rate.half_life,
        }
        assert setup.tolerated == f
        assert setup.loss == "nll"
        assert setup.momentum.dampening == 0
        assert setup.local_steps == 1
        assert setup.attack is not None
        options = setup.attack.describe()
        assert (options["name"], options["factor"], options["negative"]) in {
            ("little", 1.5, True),
            ("empire", 1.1, False),
        }
    rates = {(setup.learning_rate.initial, setup.learning_rate.every) for setup in chosen}
    assert rates == ({(0.5, 300), (0.02, 300)} if dataset == "fashion-mnist" else {(0.01, 1500), (0.001, 3000)})
    assert Counter(setup.momentum.nesterov for setup in chosen) == {False: 48, True: 48}


def test_the_appendix() -> None:
    appendix = load_sweep("appendix").setups()
    assert len(appendix) == 22
    assert Counter((setup.byzantine, setup.aggregator.label()) for setup in appendix) == {
        (0, "average"): 2,
        (4, "multi-krum"): 4,
        (4, "median"): 4,
        (2, "multi-krum"): 4,
        (2, "median"): 4,
        (2, "bulyan"): 4,
    }
    for setup in appendix:
        assert setup.workers == (11 if setup.byzantine else setup.workers)
        assert setup.model.label() == "wide-resnet"
        assert (setup.loss, setup.batch_size, setup.steps, setup.l2) == ("cross-entropy", 20, 20_000, 2.5e-7)
        assert setup.learning_rate.schedule == {0: 0.02, 8000: 0.004, 16_000: 0.0008}
        assert setup.momentum.nesterov
        assert setup.momentum.beta == 0.99


def test_the_demo() -> None:
    demo = load_sweep("demo")
    setups = demo.setups()
    assert demo.seeds == (1, 2)
    # All six rules where they are valid, both attacks, both placements; a reference for each f.
    assert len(setups) == 2 + 5 * 4 + 6 * 4
