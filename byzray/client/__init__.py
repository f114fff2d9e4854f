"""A client of the service, for scripts and notebooks.

from byzray.client import Client

client = Client("http://127.0.0.1:8000")
sweep = client.submit("sweep.yaml")
for sweep in client.watch(sweep.id):
    print(sweep.state, sweep.runs.done, "of", sweep.runs.total)
frame = client.results(sweep.id)
"""

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import requests
from pydantic import BaseModel, ValidationError

from byzray.client.models import (
    ENDED,
    Caller,
    Cluster,
    File,
    Files,
    Health,
    Plan,
    Problem,
    Run,
    Runs,
    Submission,
    Sweep,
    Sweeps,
)
from byzray.files import write_atomically
from byzray.mistakes import Failure, WrongInput, visible

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Client", "Cluster", "Plan", "Refused", "Run", "Sweep", "Unreachable"]

DEFAULT_URL = "http://127.0.0.1:8000"

# How long to connect, and how long the service may be silent, in seconds.
TIMEOUT = (5.0, 120.0)

# Requests are repeated for so many seconds while the service cannot be reached: it may be starting again.
PATIENCE_SECONDS = 60.0

M = TypeVar("M", bound=BaseModel)


class Unreachable(Failure):
    """No service answers at the URL."""


class Refused(WrongInput):
    """The service refused a request.

    Attributes:
        status: of HTTP.
        mistakes: every mistake of a submission.
    """

    def __init__(self, status: int, detail: str, mistakes: Sequence[str] = ()) -> None:
        self.status = status
        self.mistakes = list(mistakes)
        super().__init__("\n".join([visible(detail), *(f"  {visible(mistake)}" for mistake in mistakes)]))


class Client:
    """Submits sweeps to a service, follows them, and fetches their results.

    Requests that cannot reach the service are repeated for a minute, so that a service that is started again in between
    is not noticed; a submission that arrives twice is one sweep.

    Args:
        url: of the service; by default $BYZRAY_SERVICE, else ``http://127.0.0.1:8000``.
        token: that of the caller; by default $BYZRAY_TOKEN. A service without tokens needs none.
        patience: for how many seconds requests are repeated.
    """

    def __init__(self, url: str | None = None, token: str | None = None, patience: float = PATIENCE_SECONDS) -> None:
        self.url = (url or os.environ.get("BYZRAY_SERVICE") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise WrongInput(f"service: got {self.url!r}, expected a URL such as {DEFAULT_URL}")
        self.patience = patience
        self._session = requests.Session()
        if token := token or os.environ.get("BYZRAY_TOKEN"):
            if not token.isascii() or not token.isprintable() or " " in token:
                raise WrongInput("token: expected printable ASCII characters, as `byzray service token add` prints it")
            self._session.headers["Authorization"] = f"Bearer {token}"

    def submit(
        self,
        sweep: str | Path | None = None,
        *,
        yaml: str | None = None,
        name: str | None = None,
        only: Sequence[str] = (),
        seeds: str | None = None,
        set: Mapping[str, Any] | None = None,
        workers_per_actor: int | None = None,
        priority: int = 0,
        at_once: int | None = None,
    ) -> Sweep:
        """Submit a sweep or a setup. What was submitted before, by the same owner, is the same sweep.

        Args:
            sweep: the name of a sweep that is built in, or a YAML file of a sweep or a setup.
            yaml: instead: the text of one.
            name: what it is called; by default the name of the sweep or of its file.
            only: conditions that select some of its setups.
            seeds: replace the sweep's, such as ``1-5``.
            set: values that replace those of all setups, by dotted key.
            workers_per_actor: the number of workers of each actor.
            priority: among the sweeps of its owner.
            at_once: the largest number of runs at a time.

        Raises:
            Refused: it is wrong; the message lists every mistake.
        """
        body = _submission(
            sweep,
            yaml=yaml,
            name=name,
            only=list(only),
            seeds=seeds,
            set=dict(set or {}),
            workers_per_actor=workers_per_actor,
            priority=priority,
            at_once=at_once,
        )
        return self._ask(Sweep, "POST", "/v1/sweeps", body)

    def plan(
        self,
        sweep: str | Path | None = None,
        *,
        yaml: str | None = None,
        name: str | None = None,
        only: Sequence[str] = (),
        seeds: str | None = None,
        set: Mapping[str, Any] | None = None,
    ) -> Plan:
        """What a submission stands for; the arguments and errors are those of :meth:`submit`."""
        body = _submission(sweep, yaml=yaml, name=name, only=list(only), seeds=seeds, set=dict(set or {}))
        return self._ask(Plan, "POST", "/v1/plan", body)

    def sweeps(self, owner: str | None = None, state: str | None = None) -> Iterator[Sweep]:
        """All sweeps, the newest first.

        Args:
            owner: only those of this owner.
            state: only those in this state, see :data:`byzray.client.models.State`.
        """
        after: str | None = None
        while True:
            page = self._ask(Sweeps, "GET", "/v1/sweeps", owner=owner, state=state, after=after)
            yield from page.items
            if (after := page.next) is None:
                return

    def sweep(self, sweep: str) -> Sweep:
        """A sweep and its progress.

        Args:
            sweep: its id.
        """
        return self._ask(Sweep, "GET", f"/v1/sweeps/{quote(sweep, safe='')}")

    def runs(self, sweep: str, state: str | None = None) -> Iterator[Run]:
        """The runs of a sweep in the order of its plan.

        Args:
            sweep: its id.
            state: only those in this state, see :data:`byzray.client.models.RunState`.
        """
        after: str | None = None
        while True:
            page = self._ask(Runs, "GET", f"/v1/sweeps/{quote(sweep, safe='')}/runs", state=state, after=after)
            yield from page.items
            if (after := page.next) is None:
                return

    def watch(self, sweep: str) -> Iterator[Sweep]:
        """A sweep each time that it changes, until it has ended or was paused. It reconnects if the service restarts.

        Args:
            sweep: its id.
        """
        path = f"/v1/sweeps/{quote(sweep, safe='')}/events"
        while True:
            try:
                with self._send("GET", path, stream=True, headers={"Accept": "text/event-stream"}) as answer:
                    for event, data in _events(answer):
                        if event == "sweep":
                            found = Sweep.model_validate_json(data)
                            yield found
                            if found.state in (*ENDED, "paused"):
                                return
            except requests.RequestException:  # it was cut; whether the service answers again, the next request shows
                pass
            time.sleep(0.5)

    def wait(self, sweep: str) -> Sweep:
        """Wait until a sweep has ended or was paused.

        Args:
            sweep: its id.
        """
        for found in self.watch(sweep):
            last = found
        return last

    def logs(self, sweep: str, follow: bool = False) -> Iterator[str]:
        """The log of a sweep's driver, piece by piece.

        Args:
            sweep: its id.
            follow: whether to go on until the sweep has ended or was paused.
        """
        path, offset = f"/v1/sweeps/{quote(sweep, safe='')}/logs", 0
        while True:
            ended = not follow or self.sweep(sweep).state in (*ENDED, "paused")
            with self._send("GET", path, offset=offset) as answer:
                text = answer.text
                offset = int(answer.headers["X-Next-Offset"])
            if text:
                yield text
            elif ended:
                return
            else:
                time.sleep(0.5)

    def pause(self, sweep: str) -> Sweep:
        """Save the runs of a sweep and stop it, until it is resumed."""
        return self._ask(Sweep, "POST", f"/v1/sweeps/{quote(sweep, safe='')}/pause")

    def cancel(self, sweep: str) -> Sweep:
        """Save the runs of a sweep and end it; it can be resumed all the same."""
        return self._ask(Sweep, "POST", f"/v1/sweeps/{quote(sweep, safe='')}/cancel")

    def resume(self, sweep: str, mix_versions: bool = False) -> Sweep:
        """Continue a sweep, and retry its failed runs.

        Args:
            sweep: its id.
            mix_versions: even if its runs were computed with other versions of byzray, PyTorch or NumPy.
        """
        body = {"mix_versions": mix_versions}
        return self._ask(Sweep, "POST", f"/v1/sweeps/{quote(sweep, safe='')}/resume", body)

    def change(self, sweep: str, **values: Any) -> Sweep:
        """Change the `priority` or `at_once` of a sweep."""
        return self._ask(Sweep, "PATCH", f"/v1/sweeps/{quote(sweep, safe='')}", values)

    def delete(self, sweep: str) -> None:
        """Delete a sweep that has ended or was paused, with all its results."""
        self._send("DELETE", f"/v1/sweeps/{quote(sweep, safe='')}").close()

    def results(self, sweep: str) -> "pd.DataFrame":
        """The runs of a sweep, a row each, as :func:`byzray.load_runs` reads them.

        Args:
            sweep: its id.
        """
        import pandas as pd

        with self._send("GET", f"/v1/sweeps/{quote(sweep, safe='')}/results", format="parquet") as answer:
            return pd.read_parquet(io.BytesIO(answer.content))

    def report(self, sweep: str, folder: str | Path) -> Path:
        """Fetch the report of a sweep.

        Args:
            sweep: its id.
            folder: it is put into this folder.

        Returns:
            the page, index.html.
        """
        with self._send("GET", f"/v1/sweeps/{quote(sweep, safe='')}/report") as answer:
            content = answer.content
        folder = Path(folder)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)  # which leaves out '..' and leading slashes
        return folder / "index.html"

    def files(self, sweep: str, run: str) -> list[File]:
        """The files of a run.

        Args:
            sweep: the id of its sweep.
            run: its name.
        """
        return self._ask(Files, "GET", f"/v1/sweeps/{quote(sweep, safe='')}/runs/{quote(run, safe='')}/files").items

    def download(self, sweep: str, run: str, file: str, path: str | Path) -> None:
        """Fetch a file of a run.

        Args:
            sweep: the id of its sweep.
            run: its name.
            file: the file's name.
            path: where to put it.
        """
        place = f"/v1/sweeps/{quote(sweep, safe='')}/runs/{quote(run, safe='')}/files/{quote(file, safe='')}"
        with self._send("GET", place) as answer:
            write_atomically(Path(path), lambda target: _write(target, answer.content))

    def cluster(self) -> Cluster:
        """The nodes of the cluster, what is free, and who computes and waits."""
        return self._ask(Cluster, "GET", "/v1/cluster")

    def health(self) -> Health:
        """Whether the service answers."""
        return self._ask(Health, "GET", "/v1/health")

    def caller(self) -> Caller:
        """Who the service takes this client for."""
        return self._ask(Caller, "GET", "/v1/me")

    def _ask(self, model: type[M], method: str, path: str, body: Any = None, **query: Any) -> M:
        with self._send(method, path, body, **query) as answer:
            try:
                return model.model_validate_json(answer.content)
            except ValidationError as error:
                raise Failure(f"{self.url}{path}: answered something else than byzray {_short(error)}") from error

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> requests.Response:
        """Send a request, again and again while the service cannot be reached.

        Raises:
            Refused: the service refuses it.
            Unreachable: no service answers.
        """
        sent = json.loads(body.model_dump_json()) if isinstance(body, BaseModel) else body
        known = {name: value for name, value in query.items() if value is not None}
        began = time.monotonic()
        while True:
            try:
                answer = self._session.request(
                    method,
                    self.url + path,
                    json=sent,
                    params=known,
                    headers=dict(headers or {}),
                    timeout=TIMEOUT,
                    stream=stream,
                    allow_redirects=False,
                )
                if answer.status_code < 400:
                    return answer
                if (refusal := _refusal(answer)) is not None:
                    raise refusal
                # Ray Serve, or a proxy before it, answers while the service itself is starting.
                reason = f"status {answer.status_code}"
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason = _short(error)
            except requests.RequestException as error:
                raise WrongInput(f"service: got {self.url!r}: {_short(error)}") from error
            if time.monotonic() - began > self.patience:
                raise Unreachable(
                    f"{self.url}: no service answers ({reason}); `byzray serve` starts one, "
                    "and $BYZRAY_SERVICE or --service names another"
                )
            time.sleep(0.5)


def _submission(sweep: str | Path | None, **fields: Any) -> Submission:
    """A submission of a sweep that is built in, or of a file.

    Raises:
        byzray.mistakes.WrongInput: the file cannot be read, or a field is wrong.
    """
    path = Path(sweep) if sweep is not None else None
    if path is not None and (path.suffix in (".yaml", ".yml") or path.is_file()):
        try:
            fields["yaml"] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WrongInput(f"{path}: cannot be read ({error})") from error
        fields["name"] = fields["name"] or path.stem
    elif sweep is not None:
        fields["sweep"] = str(sweep)
    try:
        return Submission(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WrongInput(f"{where}: got {first['input']!r}: {first['msg']}") from None


def _refusal(answer: requests.Response) -> Refused | None:
    """Why the service refuses a request; None if the answer is not the service's."""
    with answer:
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            return None
    return Refused(answer.status_code, problem.detail, problem.mistakes)


def _events(answer: requests.Response) -> Iterator[tuple[str, str]]:
    """The server-sent events of an answer: names and data."""
    event = "message"
    data: list[str] = []
    for line in (one.decode() for one in answer.iter_lines()):
        if not line:
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif line.startswith("event:"):
            event = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))


def _short(error: Exception) -> str:
    """The reason at the bottom of an error, in a line."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__  # type: ignore[assignment]  # one of them is there
    text = " ".join(str(inner).split()) or type(inner).__name__
    return text if len(text) < 200 else f"{text[:197]}..."


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
