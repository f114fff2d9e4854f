"""Bearer tokens: who may use a service. Their file holds hashes alone."""

import hashlib
import hmac
import json
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from byzray.client.models import Caller
from byzray.files import read_plain, write_atomically
from byzray.mistakes import WrongInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

# A token has 256 random bits, so nobody finds it from its hash, and the hash needs neither salt nor rounds.
BYTES = 32


class Token(BaseModel):
    """A token.

    Attributes:
        sha256: the hash of its text.
        admin: whether it may change the sweeps of others.
        added: when.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    admin: bool
    added: datetime


_TOKENS = TypeAdapter(dict[str, Token])


class Tokens:
    """The tokens of a service, by the names of their owners.

    Args:
        storage: the service's folder.
    """

    def __init__(self, storage: Path) -> None:
        self._path = storage / "tokens.json"
        self._read: tuple[tuple[int, int, int], dict[str, Token]] | None = None

    def all(self) -> dict[str, Token]:
        """All tokens; the file is read again when it has changed.

        Raises:
            byzray.mistakes.WrongInput: it is damaged.
        """
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return {}
        version = found.st_mtime_ns, found.st_size, found.st_ino
        if self._read is None or self._read[0] != version:
            try:
                self._read = version, _TOKENS.validate_json(read_plain(self._path))
            except (OSError, ValidationError) as error:
                raise WrongInput(f"{self._path}: is damaged ({type(error).__name__}); nobody is let in") from error
        return self._read[1]

    def add(self, name: str, admin: bool = False) -> str:
        """Add a token.

        Args:
            name: of its owner.
            admin: whether it may change the sweeps of others.

        Returns:
            the token, which cannot be found out again.

        Raises:
            byzray.mistakes.WrongInput: the name is wrong or has a token.
        """
        if not NAME.fullmatch(name):
            raise WrongInput(f"name: got {name!r}, expected up to 64 letters, digits and any of _ . -")
        with self._lock():
            known = self.all()
            if name in known:
                raise WrongInput(f"name: {name} has a token; remove it first: byzray service token remove {name}")
            text = secrets.token_urlsafe(BYTES)
            self._write({**known, name: Token(sha256=_hash(text), admin=admin, added=datetime.now(UTC))})
        return text

    def remove(self, name: str) -> None:
        """Remove a token; the sweeps of its owner stay.

        Raises:
            byzray.mistakes.WrongInput: there is none of this name.
        """
        with self._lock():
            known = self.all()
            if name not in known:
                raise WrongInput(f"name: got {name!r}, expected one of {', '.join(known) or 'none: there is no token'}")
            self._write({other: token for other, token in known.items() if other != name})

    def caller(self, text: str) -> Caller | None:
        """Whose token a text is; None: nobody's."""
        hashed, found = _hash(text), None
        for name, token in self.all().items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(hashed, token.sha256):
                found = Caller(name=name, admin=token.admin)
        return found

    def _lock(self) -> FileLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_name(".tokens.lock"), timeout=10)

    def _write(self, tokens: dict[str, Token]) -> None:
        content = json.dumps(_TOKENS.dump_python(tokens, mode="json"), indent=2) + "\n"

        def write(path: Path) -> None:
            with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(content)

        write_atomically(self._path, write)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
