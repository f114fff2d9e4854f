"""The setups of *Distributed Momentum for Byzantine-resilient SGD* (ICLR 2021): 736, and 22 of its appendix.

They are what the published code ran. Its l2 factors are the square roots of these, as it applies them twice (see
docs/published-code.md).
"""

from typing import Any

from sweeps.grid import Grid

SEEDS = (1, 2, 3, 4, 5)

RULES = ("multi-krum", "median", "trimmed-mean", "phocas", "meamed", "bulyan")
ATTACKS = ({"name": "little", "factor": 1.5, "negative": True}, {"name": "empire", "factor": 1.1})
PLACEMENTS = ("update", "worker")

# Only the smaller f of each data set meets this condition.
BULYAN_IF_VALID = "aggregator != 'bulyan' or n >= 4*f + 3"

DEFENDED: dict[str, Any] = {"aggregator": RULES, "attack": ATTACKS, "momentum.placement": PLACEMENTS}

MNIST = Grid(
    base={
        "model": "full",
        "loss": "nll",
        "workers": 51,
        "batch_size": 83,
        "steps": 300,
        "learning_rate": {"half_life": 5000, "every": 300},
        "momentum": {"beta": 0.9},
        "l2": 1e-8,
        "clip": 2,
        "evaluation_interval": 5,
        "study": {"past": 150},
        "actors": None,
    },
    axes={
        "dataset": ("mnist", "fashion-mnist"),
        "byzantine": (24, 12),
        "learning_rate.initial": (0.5, 0.02),
        "momentum.nesterov": (False, True),
        **DEFENDED,
    },
    conditions=(BULYAN_IF_VALID,),
)

CIFAR = Grid(
    base={
        "model": "empire-cnn",
        "loss": "nll",
        "workers": 25,
        "batch_size": 50,
        "steps": 3000,
        "momentum": {"beta": 0.99},
        "l2": 1e-4,
        "clip": 5,
        "evaluation_interval": 100,
        "study": {"past": 25},
        "actors": None,
    },
    axes={
        "dataset": ("cifar10", "cifar100"),
        "byzantine": (11, 5),
        "learning_rate": (
            {"initial": 0.01, "half_life": 167, "every": 1500},
            {"initial": 0.001, "half_life": 167, "every": 3000},
        ),
        "momentum.nesterov": (False, True),
        **DEFENDED,
    },
    conditions=(BULYAN_IF_VALID,),
)

APPENDIX = Grid(
    base={
        "dataset": "cifar10",
        "model": "wide-resnet",
        "loss": "cross-entropy",
        "workers": 11,
        "batch_size": 20,
        "steps": 20_000,
        "learning_rate": {"schedule": {0: 0.02, 8000: 0.004, 16_000: 0.0008}},
        "momentum": {"beta": 0.99, "nesterov": True},
        "l2": 2.5e-7,
        "clip": 5,
        "evaluation_interval": 100,
        "study": {"past": 1},
        "actors": None,
    },
    axes={"byzantine": (4, 2), **DEFENDED, "aggregator": ("multi-krum", "median", "bulyan")},
    conditions=(BULYAN_IF_VALID,),
)

# A small version of the study on the handwritten digits of scikit-learn; a run takes a second.
DEMO = Grid(
    base={
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [64]},
        "loss": "nll",
        "workers": 11,
        "batch_size": 4,
        "steps": 300,
        "learning_rate": 0.2,
        "momentum": {"beta": 0.9},
        "evaluation_interval": 10,
        "actors": None,
    },
    axes={"byzantine": (4, 2), **DEFENDED},
    conditions=(BULYAN_IF_VALID,),
)
