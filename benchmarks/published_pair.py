"""A pair of the paper's MNIST setups, computed by the code that was published with the paper: the best accuracies.

    python benchmarks/published_pair.py --published CHECKOUT [--data DIR] [--rule krum] [--attack empire] [--rate 0.02]

Both placements at the same time, n = 51, f = 24, 300 steps, without Nesterov's momentum: some five minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import published_copy

from byzray.data import data_root

FACTORS = {"empire": ("factor:1.1",), "little": ("factor:1.5", "negative:True")}


def arguments(given: argparse.Namespace, placement: str, folder: Path) -> list[str]:
    """Those that the published `reproduce.py` gives for a setup."""
    return [
        *(
            "--seed",
            f"{given.seed}",
            "--device",
            "cpu",
            "--dataset",
            "mnist",
            "--model",
            "simples-full",
            "--loss",
            "nll",
        ),
        *("--batch-size", "83", "--learning-rate", f"{given.rate}", "--learning-rate-decay-delta", "300"),
        *("--momentum", "0.9", "--momentum-at", placement, "--l2-regularize", "1e-4", "--gradient-clip", "2"),
        *("--evaluation-delta", "5", "--nb-steps", "300", "--nb-workers", "51", "--nb-decl-byz", "24"),
        *(
            "--nb-real-byz",
            "24",
            "--gar",
            given.rule,
            "--attack",
            given.attack,
            "--attack-args",
            *FACTORS[given.attack],
        ),
        *("--result-directory", str(folder / placement)),
    ]


def main() -> None:
    """Run both, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="a checkout of the published code")
    parser.add_argument("--data", type=Path, default=data_root(), help="folder that holds MNIST/raw")
    parser.add_argument("--rule", default="krum", help="its name of the rule")
    parser.add_argument("--attack", choices=FACTORS, default="empire")
    parser.add_argument("--rate", type=float, default=0.02, help="the learning rate")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with published_copy(given.published, given.data) as copy, tempfile.TemporaryDirectory() as folder:
        running = {
            placement: subprocess.Popen(
                [sys.executable, "-OO", "attack.py", *arguments(given, placement, Path(folder))],
                cwd=copy,
                env=variables,
                stdout=subprocess.DEVNULL,
            )
            for placement in ("update", "worker")
        }
        for placement, process in running.items():
            if process.wait():
                raise SystemExit(f"the published code failed with {placement}")
            lines = (Path(folder) / placement / "eval").read_text().splitlines()[1:]
            best, step = max((float(accuracy), -int(step)) for step, accuracy in map(str.split, lines))
            print(f"{placement}: best accuracy {best:.4f}, first at step {-step}; at the end {lines[-1].split()[1]}")


if __name__ == "__main__":
    main()
