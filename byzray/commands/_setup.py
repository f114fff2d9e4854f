"""The setup of a command: its file and --set."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byzray.commands._shared import holds, import_from, import_from_folder_of
from byzray.mistakes import SetupError, WrongInput
from byzray.yaml import parse_yaml

if TYPE_CHECKING:
    from byzray.setups import Setup

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP.yaml", help="The setup file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, such as momentum.placement=update. Repeatable."),
]


def read_setup(path: Path, overrides: list[str] | None, **more: Any) -> "Setup":
    """Read the setup of a command. Own classes are also imported from the working folder and the file's folder."""
    from byzray.setups import Setup, load_setup

    import_from(Path.cwd())
    import_from_folder_of(path)
    values: dict[str, Any] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise WrongInput(f"--set: got {override!r}, expected KEY=VALUE, such as momentum.placement=update")
        try:
            values[key] = parse_yaml(value)
        except ValueError as error:
            raise WrongInput(f"--set {key}: the value {value!r} {error}") from error
    if path.is_dir():
        raise WrongInput(f"{path}: is a directory, expected a setup file, such as the {path / 'setup.yaml'} of a run")
    try:
        return load_setup(path, values | more)
    except SetupError:
        from sweeps.definition import SWEEPS, SweepFile

        if (str(path) in SWEEPS and not path.exists()) or holds(path, SweepFile, but_not=Setup):
            raise WrongInput(
                f"{path}: is a sweep, not a setup; run it with `byzray sweep {quote(str(path))}`"
            ) from None
        raise
