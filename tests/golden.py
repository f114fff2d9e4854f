"""Short runs computed by the code of an earlier commit and by this tree, on this machine: not a bit may differ.

    python tests/golden.py --base COMMIT [--only TEXT]

What is compared are the files that a run leaves: metrics.csv, evaluations.csv and parameters.npy. Runs are computed in
process, on actors that hold several workers each, and on actors of one worker. Exit code 1 if any file differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TREE = Path(__file__).resolve().parents[1]
FILES = ("metrics.csv", "evaluations.csv", "parameters.npy")

Content = dict[str, Any]

COMMON: Content = {
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [8]},
    "steps": 12,
    "batch_size": 4,
    "workers": 11,
    "byzantine": 2,
    "attack": "little",
    "aggregator": "multi-krum",
    "evaluation_interval": 5,
    "study": {"past": 3},
    "seed": 3,
}

RULES: dict[str, Content] = {
    "average": {"aggregator": "average"},
    "median": {"aggregator": "median"},
    "trimmed-mean": {"aggregator": "trimmed-mean"},
    "phocas": {"aggregator": "phocas"},
    "meamed": {"aggregator": "meamed"},
    "multi-krum": {},
    "multi-krum of its paper": {
        "aggregator": {"name": "multi-krum", "m": 3, "squared": True, "neighbours": "n-f-2"},
    },
    "krum": {"aggregator": "krum"},
    "bulyan": {"aggregator": "bulyan"},
    "bulyan of its paper": {"aggregator": {"name": "bulyan", "rescore": True, "m": 1}},
    "minimum-diameter": {"aggregator": "minimum-diameter"},
    "aksel": {"aggregator": "aksel"},
    "aksel n-f": {"aggregator": {"name": "aksel", "mode": "n-f"}},
    "cge": {"aggregator": "cge"},
    "mixture": {
        "aggregator": {
            "name": "random-mixture",
            "rules": [{"rule": "median", "frequency": 2.0}, {"rule": "krum"}, {"rule": "phocas"}],
        }
    },
}

SEARCHED = {"name": "empire", "factor": "searched", "evaluations": 9}

OTHERS: dict[str, Content] = {
    "no attack": {"byzantine": 0, "tolerated": 2, "attack": "none"},
    "empire": {"attack": "empire"},
    "empire-strict": {"attack": "empire-strict"},
    "hidden": {"attack": "hidden"},
    "anti-cge": {"attack": "anti-cge", "aggregator": "cge"},
    "nan": {"attack": "nan", "aggregator": "median"},
    "little searched": {"attack": {"name": "little", "factor": "searched"}},
    "placement server": {"momentum": {"placement": "server"}},
    "placement update": {"momentum": {"placement": "update", "dampening": 0.9}},
    "nesterov worker": {"momentum": {"nesterov": True}},
    "nesterov server": {"momentum": {"nesterov": True, "placement": "server"}},
    "nesterov update": {"momentum": {"nesterov": True, "placement": "update"}},
    "faults recover": {"faults": {"events": [{"kind": "silent", "workers": [1, 4], "steps": "3-5"}]}},
    "faults zero": {
        "faults": {"missing": "zero", "events": [{"kind": "crash", "workers": 2, "steps": "3, 7"}]},
        "momentum": {"placement": "server"},
    },
    "faults drop": {"faults": {"missing": "drop", "events": [{"kind": "silent", "workers": [0, 3], "steps": "2-6"}]}},
    "faults drop, searched": {
        "attack": SEARCHED,
        "aggregator": "median",
        "faults": {"missing": "drop", "events": [{"kind": "silent", "workers": 0, "steps": 4}]},
    },
    "local steps": {"local_steps": 3, "clip": 2.0},
    "regularised, decaying": {"l1": 0.001, "l2": 0.01, "learning_rate": {"initial": 0.3, "half_life": 4, "every": 3}},
    "BatchNorm in training mode": {
        "dataset": {"name": "npz", "path": "images.npz"},
        "model": {"name": "empire-cnn", "training": True},
        "steps": 3,
        "workers": 5,
        "byzantine": 1,
        "aggregator": "median",
        "evaluation_interval": 2,
    },
    "one output": {"dataset": {"name": "npz", "path": "numbers.npz"}, "model": "logit", "loss": "bce"},
    "convolutions": {"model": "conv", "dataset": {"name": "npz", "path": "grey.npz"}, "steps": 3},
    "no study": {"study": "off", "divergence": "stop"},
    "diverges": {"learning_rate": 1e30, "divergence": "stop", "aggregator": "average"},
}


def setups() -> Iterator[tuple[str, Content]]:
    """The setups by name: every rule under an attack with a given and with a searched factor, and the others."""
    for name, content in RULES.items():
        yield name, content
        yield f"{name}, searched", {**content, "attack": SEARCHED}
    yield from OTHERS.items()


# On actors: with five of the honest workers they are spread over one, or over each its own.
ON_ACTORS = {
    "multi-krum": {},
    "searched, median": {"aggregator": "median", "attack": SEARCHED},
    "mixture": RULES["mixture"],
    "placement server": OTHERS["placement server"],
    "nesterov worker": OTHERS["nesterov worker"],
    "faults zero": OTHERS["faults zero"],
    "local steps": OTHERS["local steps"],
    "BatchNorm in training mode": OTHERS["BatchNorm in training mode"],
}
HONEST = 5


def write_data(folder: Path) -> None:
    """Small data sets of the shapes that models ask for."""
    rng = np.random.default_rng(5)
    shapes = {"images": ((3, 32, 32), 10), "grey": ((1, 28, 28), 10), "numbers": ((68,), 2)}
    for name, (shape, classes) in shapes.items():
        x, y = rng.normal(size=(120, *shape)).astype(np.float32), rng.integers(classes, size=120)
        y[:classes] = y[100 : 100 + classes] = np.arange(classes)
        np.savez(folder / f"{name}.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])


def compute(tree: Path, folder: Path, only: str) -> None:
    """Compute all runs with the code that is imported here, which is that of a tree, into a folder for each."""
    import ray
    import torch

    import actors
    import byzray
    from actors import Fleet
    from actors import simulate as simulate_on_actors
    from actors.fleet import split
    from byzray import Setup, simulate
    from byzray.setups import Actors

    for package in (byzray, actors):
        assert Path(package.__file__).is_relative_to(tree), f"{package.__file__} is not of {tree}"
    torch.set_num_threads(1)
    for name, content in setups():
        if only in name:
            simulate(Setup.model_validate({**COMMON, **content}), output=folder / name)
    chosen = {name: content for name, content in ON_ACTORS.items() if only in name}
    if not chosen:
        return
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    used = ray.get(ray.remote(lambda: __import__("actors").__file__).remote())
    assert Path(used).is_relative_to(tree), f"Ray's workers use {used}, not {tree}"
    for size, layout in ((2, "packed"), (HONEST, "one worker an actor")):
        with Fleet("golden", split(HONEST, size), Actors(cpus_per_actor=0.1)) as fleet:
            for name, content in chosen.items():
                byzantine = {"workers": HONEST + 2, "byzantine": 2}
                if "Batch" in name:
                    byzantine = {"workers": HONEST + 1, "byzantine": 1}
                setup = Setup.model_validate({**COMMON, **content, **byzantine})
                simulate_on_actors(setup, fleet=fleet, output=folder / f"{name}, {layout}")
    ray.shutdown()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A worktree of a commit, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as parent:
        tree = Path(parent) / "base"
        subprocess.run(["git", "-C", TREE, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", TREE, "worktree", "remove", "--force", tree], check=True)


def computed_by(tree: Path, folder: Path, only: str) -> None:
    """Compute all runs with the code of a tree, in a process of its own whose working folder holds the data."""
    command = [sys.executable, "-P", __file__, "--compute", tree, folder, "--only", only]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, check=True, env=environment, cwd=folder.parent)


def differences(base: Path, here: Path) -> Iterator[str]:
    """One line for each file that is not the same in both folders."""
    for run in sorted({path.name for folder in (base, here) for path in folder.iterdir()}):
        for file in FILES:
            found = [list((folder / run).rglob(file)) for folder in (base, here)]
            if not all(found):
                yield f"{run}: {file} is missing in {'both' if not any(found) else 'one'}"
            elif found[0][0].read_bytes() != found[1][0].read_bytes():
                yield f"{run}: {file} differs"


def main() -> int:
    """Compare this tree with a commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--only", metavar="TEXT", default="", help="only runs with this in their names")
    parser.add_argument("--compute", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compute is not None:
        compute(*arguments.compute, arguments.only)
        return 0
    if arguments.base is None:
        parser.error("expected --base COMMIT")
    with tempfile.TemporaryDirectory() as parent, checked_out(arguments.base) as base_tree:
        base, here = Path(parent) / "base", Path(parent) / "here"
        write_data(Path(parent))
        for tree, folder in ((base_tree, base), (TREE, here)):
            folder.mkdir()
            computed_by(tree, folder, arguments.only)
        found = list(differences(base, here))
        count = len(list(here.iterdir()))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{count} runs, {len({line.partition(':')[0] for line in found})} differ from {arguments.base}")
    return 1 if found or not count else 0


if __name__ == "__main__":
    sys.exit(main())
