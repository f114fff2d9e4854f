"""The data set of a setup: where it lies, reading it, and whether it fits."""

import os
from pathlib import Path

from byzray.datasets import Data
from byzray.division import training, with_owners
from byzray.mistakes import SetupError
from byzray.setups import Setup
from byzray.setups.checks import mistakes_on


def load_data(setup: Setup, root: str | Path | None = None, download: bool = False) -> Data:
    """Read a setup's data set, and the file of its split if it has one; check what could not be checked before.

    Args:
        setup: the setup.
        root: the folder that holds data sets, see :func:`data_root`.
        download: whether missing files may be downloaded into it.

    Raises:
        byzray.datasets.MissingData: the files are not there.
        SetupError: a file does not hold what it should, or the model does not fit the data.
    """
    field = "dataset"
    try:
        data = setup.dataset.load(data_root(root), download)
        field = "split"
        data = with_owners(data, setup, data_root(root))
    except ValueError as error:
        raise SetupError(setup.label(), [f"{field}: {error}"]) from error
    check_data(setup, data)
    return data


def check_data(setup: Setup, data: Data) -> None:
    """Check that a setup's model fits its data set, and that this can be divided as the setup says.

    Raises:
        SetupError: it does not.
    """
    mistakes = mistakes_on(setup, data.shape, data.classes)
    field = "aggregator"
    try:
        examples = training(data, setup)
        field = "split"
        setup.split.stream(examples)
    except ValueError as error:
        mistakes.append(f"{field}: {error}")
    if mistakes:
        raise SetupError(setup.label(), mistakes)


def data_root(given: str | Path | None = None) -> Path:
    """The folder that holds data sets: the one given, or $BYZRAY_DATA, or ~/.cache/byzray/data.

    Without a home directory it is in the working folder.
    """
    named = os.path.expanduser(given or os.environ.get("BYZRAY_DATA") or "~/.cache/byzray/data")
    return Path(named.removeprefix("~/"))


def shape_of(setup: Setup, root: str | Path | None = None) -> tuple[tuple[int, ...], int]:
    """The shape of an example and the number of classes; the data set is read only if they are not known without.

    Args:
        setup: the setup.
        root: the folder that holds data sets, see :func:`data_root`.

    Raises:
        byzray.datasets.MissingData, ValueError: it has to be read, and cannot be.
    """
    known = setup.dataset
    if known.shape is not None and known.classes is not None:
        return known.shape, known.classes
    data = known.load(data_root(root), download=False)
    return data.shape, data.classes
