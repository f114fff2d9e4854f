"""byzray show."""

from pathlib import Path
from typing import TYPE_CHECKING

from byzray.commands._setup import Overrides, SetupFile, read_setup
from byzray.commands._shared import out
from byzray.mistakes import SetupError

if TYPE_CHECKING:
    from byzray.setups import Setup


def show(setup_file: SetupFile, overrides: Overrides = None) -> None:
    """Print a resolved setup, the bounds of its rule, and the label skew of its split."""
    from byzray.aggregators import Aggregator
    from byzray.defence import Defence

    setup = read_setup(setup_file, overrides)
    of_data = _of_data(setup_file, setup)
    out.print(setup.yaml().rstrip(), markup=False)
    n, f = setup.workers, setup.tolerated
    out.print(f"# n = {n}, f = {f}, honest workers: {setup.honest}, run directory: {_directory_name(setup)}")
    rules = [rule for rule in (setup.aggregator, *setup.aggregator.parts()) if isinstance(rule, Aggregator)]
    for defence in (Defence(setup.pre, rule) for rule in rules):
        bound, kappa = defence.bound(n, f), defence.kappa(n, f)
        proven = "no variance-norm bound is known" if bound != bound else f"variance-norm bound {bound:.6g}"
        robust = "" if kappa != kappa else f", kappa {kappa:.6g}"
        left, _ = defence.sizes(n, f)
        seen = "" if left == n else f", {defence.rule.label()} sees n = {left}"
        out.print(f"# {defence.label()}: valid for these n and f{seen}; {proven}{robust}")
    if of_data:
        out.print(f"# {of_data}", markup=False)


def _of_data(setup_file: Path, setup: "Setup") -> str | None:
    """The label skew of the split, which needs the data set, or a note that the data set is missing.

    The data set is read only for this, or if its shape is not known otherwise.

    Raises:
        SetupError: the model does not fit the data set, or the split cannot divide it.
    """
    from byzray.data import load_data
    from byzray.datasets import MissingData
    from byzray.division import training
    from byzray.splits import Sharded, label_skew
    from byzray.splits.file import File

    split = setup.split
    if setup.dataset.shape is not None and not isinstance(split, Sharded):
        return None
    try:
        data = load_data(setup)
    except MissingData:
        absent = "the data set or the split's file" if isinstance(split, File) else "the data set"
        if setup.dataset.shape is None:
            return f"{absent} is not here, so the model was not checked against it"
        return f"{absent} is not here, so the label skew is not known"
    except SetupError as error:
        raise SetupError(f"{setup_file}", error.mistakes) from error
    if not isinstance(split, Sharded):
        return None
    divided = training(data, setup)
    shards = split.shards(divided)
    sizes = sorted({len(shard) for shard in shards})
    skew = label_skew(divided.y, shards, divided.classes)
    spread = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    return f"split {split.label()}: label skew {skew:.2f}, shards of {spread} examples"


def _directory_name(setup: "Setup") -> str:
    from byzray.runs.directory import RunDirectory

    return RunDirectory.name(setup)
