"""The files of a service's storage that belong to no sweep's record, and what is removed from it."""

import hashlib
import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from byzray.files import read_plain, replace_text
from byzray.mistakes import WrongInput
from sweeps.service.settings import Settings


def digest_of(storage: Path) -> str:
    """Eight hexadecimal digits that tell services on one cluster apart."""
    return hashlib.sha256(str(storage).encode()).hexdigest()[:8]


def write_settings(settings: Settings) -> None:
    """Write the settings into the storage, for drivers."""
    settings.storage.mkdir(parents=True, exist_ok=True)
    content = settings.model_dump_json(indent=2) + "\n"
    replace_text(settings.storage / "settings.json", content)


def read_settings(storage: Path) -> Settings:
    """The settings that the service wrote into a storage.

    Raises:
        byzray.mistakes.WrongInput: there are none, or they are damaged.
    """
    try:
        return Settings.model_validate_json(read_plain(storage / "settings.json"))
    except (OSError, ValidationError) as error:
        raise WrongInput(f"{storage}: has no settings of a service ({type(error).__name__})") from error


def ask_to_stop(settings: Settings, ask: bool = True) -> None:
    """Ask all drivers to save their runs and end, as the service ends; with `ask` False, withdraw the request."""
    path = settings.storage / ".stopping"
    path.touch() if ask else path.unlink(missing_ok=True)


def is_stopping(settings: Settings) -> bool:
    """Whether drivers are to end."""
    return (settings.storage / ".stopping").exists()


def remove_outdated(folder: Path, days: float) -> None:
    """Remove the files of Ray Tune's experiments of a sweep that ended so many days ago."""
    tune = folder / "tune"
    if tune.is_dir() and time.time() - tune.stat().st_mtime > days * 86_400:
        shutil.rmtree(tune, ignore_errors=True)
