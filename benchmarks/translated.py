"""The configurations of docs/from-byzfl.md and docs/from-flpoison.md: by the peer and by byzray, by turns.

    pip install --no-deps --target PEERS byzfl seaborn hdbscan rarfile
    python benchmarks/translated.py --byzfl PEERS --flpoison CHECKOUT --json RESULTS/translated.json --docs docs

Each of the two pages shows pairs of configurations, the peer's file and byzray's setup. They are read from the page.
The peer's file goes to the peer's own entry point (byzfl's `run_benchmark`, FLPoison's `main.py`), the setup to `byzray
run`, each in a process of its own, with one thread and without a GPU. Only the seed and the folders are added, and with
`--steps` another number of steps, which is for a trial.

byzfl is a folder that it was installed into, FLPoison a checkout; a peer that is not given is left out. FLPoison
imports hdbscan and rarfile, which must be there too. MNIST lies in the folder of the data sets as torchvision puts it.
"""

import argparse
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from byzray import Setup
from byzray.data import data_root
from byzray.environment import environment
from byzray.yaml import parse_yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {"byzfl": "from-byzfl.md", "FLPoison": "from-flpoison.md"}
SECTION = "## Two configurations\n"
BEGIN, END = "<!-- begin figures -->", "<!-- end figures -->"
OURS = "byzray"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Configuration:
    """A configuration of a page, in both forms.

    Attributes:
        name: its heading.
        peer: byzfl or FLPoison.
        theirs: the text of the peer's file.
        ours: that of the setup.
    """

    name: str
    peer: str
    theirs: str
    ours: str

    def settings(self) -> dict[str, Any]:
        """What the peer's file says."""
        return json.loads(self.theirs) if self.peer == "byzfl" else parse_yaml(self.theirs)

    def setup(self) -> Setup:
        """The setup."""
        return Setup.model_validate(parse_yaml(self.ours))


@dataclass(frozen=True)
class Place:
    """Where peers and data are.

    Attributes:
        byzfl: the folder that byzfl was installed into.
        flpoison: a checkout of FLPoison.
        packages: the folder that hdbscan and rarfile were installed into.
        data: the folder that holds MNIST.
    """

    byzfl: Path | None
    flpoison: Path | None
    packages: Path | None
    data: Path

    def peers(self) -> list[str]:
        """Those that can run."""
        return [peer for peer, folder in (("byzfl", self.byzfl), ("FLPoison", self.flpoison)) if folder is not None]


@dataclass(frozen=True)
class Run:
    """What a run found.

    Attributes:
        configuration: the name of its configuration.
        peer: whose configuration it is.
        by: who computed it.
        seed: its seed.
        accuracy: on the test set, at the end.
        seconds: of the whole process.
    """

    configuration: str
    peer: str
    by: str
    seed: int
    accuracy: float
    seconds: float


def configurations(peer: str, docs: Path = DOCS) -> list[Configuration]:
    """Those that the page of a peer shows: under each heading of the section the peer's file, then the setup."""
    section = (docs / PAGES[peer]).read_text(encoding="utf-8").partition(SECTION)[2]
    found = []
    for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        theirs, ours = re.findall(r"^```(?:json|yaml)\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        found.append(Configuration(part.partition("\n")[0], peer, theirs, ours))
    return found


def disagreements(configuration: Configuration) -> list[str]:
    """The numbers in which the two forms differ."""
    theirs = (byzfl_numbers if configuration.peer == "byzfl" else flpoison_numbers)(configuration.settings())
    ours = our_numbers(configuration.setup())
    return [
        f"{configuration.name}: {name} is {theirs[name]} of {configuration.peer}, {ours[name]} of {OURS}"
        for name in ours
        if not alike(theirs[name], ours[name])
    ]


def alike(one: Any, other: Any) -> bool:
    """Whether two numbers, or two lists of them, are equal up to rounding."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return math.isclose(one, other, rel_tol=1e-9)


def our_numbers(setup: Setup) -> dict[str, Any]:
    """What a setup and a peer's file must agree on."""
    return {
        "workers": setup.workers,
        "byzantine": setup.byzantine,
        "tolerated": setup.tolerated,
        "steps": setup.steps,
        "local steps": setup.local_steps,
        "batch size": setup.batch_size,
        "rates": [setup.rate_at(step) for step in range(setup.steps)],
        "momentum": setup.momentum.beta,
        "factor of a gradient in the momentum": 1 - setup.momentum.dampening,
        "weight decay": setup.weight_decay,
    }


def byzfl_numbers(settings: dict[str, Any]) -> dict[str, Any]:
    """The same numbers of byzfl."""
    benchmark, model, honest = (settings[part] for part in ("benchmark_config", "model", "honest_clients"))
    steps = range(benchmark["nb_steps"])
    passed = [sum(milestone <= step for milestone in model["milestones"]) for step in steps]
    return {
        "workers": benchmark["nb_honest_clients"] + benchmark["f"],
        "byzantine": benchmark["f"],
        "tolerated": benchmark.get("tolerated_f", benchmark["f"]),
        "steps": len(steps),
        "local steps": 1,
        "batch size": honest["batch_size"],
        "rates": [model["learning_rate"] * model["learning_rate_decay"] ** count for count in passed],
        "momentum": honest["momentum"],
        "factor of a gradient in the momentum": 1 - honest["momentum"],
        "weight decay": honest["weight_decay"],
    }


def flpoison_numbers(settings: dict[str, Any]) -> dict[str, Any]:
    """The same numbers of FLPoison, whose rates are constant here."""
    return {
        "workers": settings["num_clients"],
        "byzantine": settings["num_adv"],
        "tolerated": settings["num_adv"],
        "steps": settings["epochs"],
        "local steps": 1 if settings["algorithm"] == "FedSGD" else settings["local_epochs"],
        "batch size": settings["batch_size"],
        "rates": [settings["learning_rate"]] * settings["epochs"],
        "momentum": settings["momentum"],
        "factor of a gradient in the momentum": 1.0,
        "weight decay": settings["weight_decay"],
    }


def seconds_of(command: Sequence[str], folder: Path, packages: Path | None = None) -> float:
    """Run a command in a folder, with some installed packages, and return the seconds that it took.

    Raises:
        SystemExit: it failed.
    """
    variables = {**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    if packages is not None:
        variables["PYTHONPATH"] = str(packages.resolve())
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds


def run_byzfl(
    configuration: Configuration, seed: int, steps: int | None, place: Place, folder: Path
) -> tuple[float, float]:
    """Run byzfl's benchmark in an empty folder: the last accuracy and the seconds."""
    settings = configuration.settings()
    settings["benchmark_config"] |= {"training_seed": seed, "data_distribution_seed": seed}
    settings["evaluation_and_results"] |= {"data_folder": str(place.data), "results_directory": "results"}
    if steps is not None:
        settings["benchmark_config"]["nb_steps"] = steps
    (folder / "config.json").write_text(json.dumps(settings))
    seconds = seconds_of([sys.executable, "-c", "import byzfl; byzfl.run_benchmark()"], folder, place.byzfl)
    (accuracies,) = folder.glob("results/*/test_accuracy_*.txt")
    return float(accuracies.read_text().split(",")[-1]), seconds


def run_flpoison(
    configuration: Configuration, seed: int, steps: int | None, place: Place, folder: Path
) -> tuple[float, float]:
    """Run FLPoison in a copy: the last accuracy and the seconds."""
    assert place.flpoison is not None
    copy = folder / "flpoison"
    shutil.copytree(place.flpoison, copy, ignore=shutil.ignore_patterns(".git", "data", "logs"))
    (copy / "data").symlink_to(place.data)
    (copy / "translated.yaml").write_text(configuration.theirs)
    command = [sys.executable, "main.py", "-config", "translated.yaml", "-seed", f"{seed}"]
    if steps is not None:
        command += ["-e", f"{steps}"]
    seconds = seconds_of(command, copy, place.packages)
    (log,) = copy.glob("logs/**/*.txt")
    return float(re.findall(r"Test Acc: ([\d.]+)", log.read_text())[-1]), seconds


def run_byzray(
    configuration: Configuration, seed: int, steps: int | None, place: Place, folder: Path
) -> tuple[float, float]:
    """Run byzray in an empty folder: the last accuracy and the seconds."""
    (folder / "setup.yaml").write_text(configuration.ours)
    command = [sys.executable, "-m", "byzray", "run", "setup.yaml", "--in-process", "--seed", f"{seed}"]
    command += ["--data", str(place.data)]
    if steps is not None:
        command += ["--set", f"steps={steps}"]
    seconds = seconds_of(command, folder)
    (evaluations,) = folder.glob("results/*/evaluations.csv")
    with evaluations.open() as lines:
        return float(list(csv.DictReader(lines))[-1]["accuracy"]), seconds


Runner = Callable[[Configuration, int, int | None, Place, Path], tuple[float, float]]
RUNNERS: dict[str, Runner] = {"byzfl": run_byzfl, "FLPoison": run_flpoison, OURS: run_byzray}


def runs(found: list[Configuration], seeds: Sequence[int], steps: int | None, place: Place) -> Iterator[Run]:
    """Run all configurations, seed after seed, the peer and byzray by turns."""
    for seed in seeds:
        for one in found:
            for by in (one.peer, OURS):
                with tempfile.TemporaryDirectory() as folder:
                    accuracy, seconds = RUNNERS[by](one, seed, steps, place, Path(folder))
                yield Run(one.name, one.peer, by, seed, accuracy, seconds)


def table(done: list[Run]) -> str:
    """A row for each configuration, in Markdown: the accuracies and the seconds of the peer and of byzray."""
    peers = list(dict.fromkeys(run.peer for run in done))
    peer = peers[0] if len(peers) == 1 else "peer"
    columns = ["configuration", f"{peer}, %", f"{OURS}, %", f"{peer}, s", f"{OURS}, s"]
    rows = [columns, ["---", *["---:"] * 4]]
    for name, whose in dict.fromkeys((run.configuration, run.peer) for run in done):
        sides = [[run for run in done if (run.configuration, run.by) == (name, by)] for by in (whose, OURS)]
        rows.append(
            [
                name if len(peers) == 1 else f"{whose}: {name}",
                *(spread([100 * run.accuracy for run in side], ".2f") for side in sides),
                *(spread([run.seconds for run in side], ".0f") for side in sides),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: list[float], form: str) -> str:
    """The mean of some numbers, and in brackets the least and the greatest if there are several."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def caption(seeds: Sequence[int], version: str) -> str:
    """What the numbers of a page are, and where they were measured."""
    where = environment(torch.device("cpu"))
    several = f"the mean over the seeds {seeds[0]} to {seeds[-1]}, and in brackets the least and the greatest"
    which = several if len(seeds) > 1 else f"one run each, seed {seeds[0]}"
    text = (
        f"Accuracy on the test set at the end, and seconds of the whole process on one thread, start and evaluations "
        f"included: {which}. {version}; {where['device']}, "
        f"Python {where['python']}, PyTorch {where['packages']['torch']}."
    )
    return textwrap.fill(text, 140)


def version_of(peer: str, place: Place) -> str:
    """The name and the version of a peer."""
    if peer == "byzfl":
        (found,) = metadata.distributions(name="byzfl", path=[str(place.byzfl)])
        return f"byzfl {found.version}"
    command = ["git", "-C", str(place.flpoison), "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return f"FLPoison, commit {commit}" if commit else "FLPoison"


def filled(text: str, block: str) -> str:
    """A page with its figures replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{rest.split(END)[1]}"


def write_page(peer: str, done: list[Run], seeds: Sequence[int], place: Place, docs: Path) -> None:
    """Write the figures of a peer into its page."""
    page = docs / PAGES[peer]
    block = f"{table([run for run in done if run.peer == peer])}\n\n{caption(seeds, version_of(peer, place))}"
    page.write_text(filled(page.read_text(encoding="utf-8"), block), encoding="utf-8")


def seeds_of(text: str) -> list[int]:
    """The seeds of `1-3`, or of `2`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--byzfl", type=Path, help="the folder that byzfl was installed into")
    parser.add_argument("--flpoison", type=Path, help="a checkout of FLPoison")
    parser.add_argument("--packages", type=Path, help="the folder with hdbscan and rarfile; by default that of --byzfl")
    parser.add_argument("--data", type=Path, default=data_root(), help="the folder that holds MNIST/raw")
    parser.add_argument("--steps", type=int, help="another number of steps, for a trial")
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-3"), help="such as 1-3, the default")
    parser.add_argument("--json", type=Path, help="where all runs are written, after each of them")
    parser.add_argument("--docs", type=Path, help="the folder of the documentation, whose pages get the figures")
    given = parser.parse_args()
    if given.byzfl is None and given.flpoison is None:
        parser.error("expected --byzfl, --flpoison or both")
    if given.steps is not None and given.docs is not None:
        parser.error("expected no --docs with --steps: the pages show whole runs")
    if given.flpoison is not None and not (given.flpoison / "main.py").is_file():
        parser.error(f"{given.flpoison}: expected a checkout of FLPoison, there is no main.py")
    if not (given.data / "MNIST" / "raw").is_dir():
        parser.error(f"{given.data}: there is no MNIST/raw")
    return given


def main() -> None:
    """Run, print, and write what was asked for."""
    given = arguments()
    place = Place(given.byzfl, given.flpoison, given.packages or given.byzfl, given.data.resolve())
    found = [one for peer in place.peers() for one in configurations(peer, given.docs or DOCS)]
    if wrong := [line for one in found for line in disagreements(one)]:
        raise SystemExit("\n".join(wrong))
    done = []
    for run in runs(found, given.seeds, given.steps, place):
        print(f"{run.configuration}, seed {run.seed}, {run.by}: {run.accuracy:.4f}, {run.seconds:.1f} s", flush=True)
        done.append(run)
        if given.json is not None:
            whole = {"environment": environment(torch.device("cpu")), "runs": [asdict(one) for one in done]}
            given.json.write_text(json.dumps(whole, indent=2) + "\n")
    print(f"\n{table(done)}")
    if given.docs is not None:
        for peer in place.peers():
            write_page(peer, done, given.seeds, place, given.docs)


if __name__ == "__main__":
    main()
