"""The HTTP API of the service, as a FastAPI application."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from byzray import __version__
from byzray.client import models
from byzray.client.models import Caller, Problem
from byzray.files import open_plain
from byzray.mistakes import WrongInput
from sweeps.service import answers
from sweeps.service.drivers import Drivers
from sweeps.service.guard import BodyLimit, Guard
from sweeps.service.records import ID, Record, Records
from sweeps.service.settings import Settings
from sweeps.service.submissions import Checker, Rejected

# How often a sweep that somebody watches is read, in seconds.
WATCH_SECONDS = 0.5

# The largest number of streams of events of a caller.
MOST_STREAMS = 500

SweepId = Annotated[str, Path(description="The id of a sweep.", pattern=f"^{ID.pattern}$")]
RunName = Annotated[str, Path(description="The name of a run.", max_length=251)]
Limit = Annotated[int, Query(ge=1, le=500, description="The largest number of items.")]
After = Annotated[str | None, Query(max_length=300, description="The `next` of the page before.")]

# Fields of a submission that are numbers, where the query has texts.
NUMBERS = ("priority", "at_once", "workers_per_actor")

M = TypeVar("M", bound=BaseModel)

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for its documentation."""
    return {status: {"model": Problem} for status in (401, 429, *statuses)}


class Service:
    """The parts of a service that its routes share.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records = Records(settings.sweeps)
        self.guard = Guard(settings)
        self.drivers = Drivers(settings)
        self.checker = Checker(settings)
        self.cluster = answers.ClusterView(settings, self.records)
        self.watching: Counter[str] = Counter()  # streams of events, by who asked for them

    def record(self, sweep: str) -> Record:
        """The record of a sweep.

        Raises:
            HTTPException: 404, if there is none.
        """
        record = self.records.get(sweep)
        if record is None:
            raise HTTPException(404, f"there is no sweep {sweep}")
        return record

    def folder_with(self, run: str, sweep: str) -> FilePath:
        """The folder of a sweep that has a run.

        Raises:
            HTTPException: 404, if there is no such sweep, or it has no such run.
        """
        folder = self.records.of(self.record(sweep).id)
        if not answers.has_run(folder, run):
            raise HTTPException(404, f"{sweep} has no run {run}")
        return folder

    def own(self, sweep: str, caller: Caller) -> Record:
        """The record of a sweep that the caller may change.

        Raises:
            HTTPException: 404, if there is none; 403, if it is somebody else's.
        """
        record = self.record(sweep)
        if not caller.admin and record.owner != caller.name:
            raise HTTPException(403, f"{sweep} belongs to {record.owner}, you are {caller.name}")
        return record

    def answer(self, record: Record) -> models.Sweep:
        """A sweep and its progress."""
        live = self.drivers.live
        sweep = answers.sweep_of(record, self.records.of(record.id), live is None or record.id in live)
        if sweep.state != "starting":
            return sweep
        if record.id in self.drivers.waiting:
            why = f"waiting for one of {self.settings.most_drivers} drivers"
            return sweep.model_copy(update={"state": "waiting", "why": why})
        deaths = self.drivers.deaths(record.id)
        why = self.drivers.failure or (f"{deaths} drivers ended by themselves, see its log" if deaths > 1 else "")
        return sweep.model_copy(update={"state": "stuck", "why": why}) if why else sweep

    def changed(self, record: Record, **changes: Any) -> models.Sweep:
        """Change a record, and answer with its sweep."""
        found = self.records.change(record.id, **changes)
        if found is None:
            raise HTTPException(404, f"there is no sweep {record.id}")
        self.drivers.check()
        return self.answer(found)

    def expect_room(self, owner: str) -> None:
        """Expect that an owner may have one more sweep.

        Raises:
            HTTPException: 409, if not.
        """
        known = [record for record in self.records.all() if record.owner == owner]
        active = [one for one in known if self.answer(one).state not in models.ENDED]
        if len(active) >= self.settings.most_sweeps:
            most = self.settings.most_sweeps
            raise HTTPException(409, f"you have {len(active)} sweeps that have not ended, expected at most {most}")


def build(settings: Settings) -> FastAPI:
    """The application.

    Args:
        settings: of the service.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.drivers.start()
        yield
        service.drivers.stop()
        service.checker.close()

    app: FastAPI = FastAPIOffline(  # its documentation needs nothing from elsewhere
        title="byzray",
        version=__version__,
        description="Sweeps of Byzantine-resilient distributed SGD, computed by actors on a Ray cluster.",
        lifespan=lifespan,
        redoc_url=None,
    )
    _protect(app, service)
    _add_reading(app, service)
    _add_changing(app, service)
    _add_results(app, service)
    return app


def _protect(app: FastAPI, service: Service) -> None:
    settings = service.settings
    app.add_middleware(BodyLimit, most_bytes=settings.most_bytes)
    if settings.is_local:  # so that no page in a browser here reaches it by another name of this machine
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", settings.host])

    @app.exception_handler(AnyHTTPException)
    async def refuse(_: Request, error: AnyHTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(_: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, "the request is wrong", _in_words(error.errors()))

    @app.exception_handler(Rejected)
    async def refuse_submission(_: Request, error: Rejected) -> JSONResponse:
        return _problem(422, str(error), error.mistakes)

    @app.exception_handler(WrongInput)
    async def refuse_input(_: Request, error: WrongInput) -> JSONResponse:
        return _problem(409, str(error))


def _problem(status: int, detail: str, mistakes: list[str] | None = None, headers: Any = None) -> JSONResponse:
    return JSONResponse(Problem(detail=detail, mistakes=mistakes or []).model_dump(), status, headers)


def _in_words(errors: Any) -> list[str]:
    found = []
    for error in errors:
        where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
        value = repr(error.get("input"))
        shown = value if len(value) < 100 else f"{value[:97]}..."
        found.append(f"{where or 'body'}: got {shown}: {error['msg']}")
    return found


def _tagged(request: Request, content: BaseModel) -> Response:
    """An answer with an ETag; 304 if the client has it already."""
    body = content.model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


async def _submission(request: Request) -> models.Submission:
    """The submission in a request: JSON, or YAML with the other fields in the query."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    try:
        if kind == "application/json":
            return models.Submission.model_validate_json(body)
        if kind in YAML_TYPES:
            fields: dict[str, Any] = dict(request.query_params.items())
            fields |= {name: int(value) for name, value in fields.items() if name in NUMBERS and _is_integer(value)}
            if only := request.query_params.getlist("only"):
                fields["only"] = only
            return models.Submission.model_validate({**fields, "yaml": body.decode()})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None
    except UnicodeDecodeError:
        raise HTTPException(422, "the body is no UTF-8") from None
    raise HTTPException(415, f"content-type: got {kind!r}, expected application/json or application/yaml")


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 20


SUBMISSION_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": models.Submission.model_json_schema()},
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}


def _add_reading(app: FastAPI, service: Service) -> None:
    """Routes that read sweeps and the cluster."""
    records = service.records
    WhoAsks = Annotated[Caller, Depends(service.guard.caller)]

    @app.get("/v1/health", tags=["service"])
    def health() -> models.Health:
        """Whether the service answers. Needs no token."""
        return models.Health(version=__version__)

    @app.get("/v1/me", tags=["service"], responses=_problems())
    def me(caller: WhoAsks) -> Caller:
        """Who asks."""
        return caller

    @app.get("/v1/cluster", tags=["service"], responses=_problems())
    def cluster(request: Request, caller: WhoAsks) -> models.Cluster:
        """The nodes of the cluster, what is free, and who computes and waits for what."""
        return _tagged(request, service.cluster.get())  # type: ignore[return-value]  # documented as what it holds

    @app.get("/v1/sweeps", tags=["sweeps"], responses=_problems(422))
    def sweeps(
        request: Request,
        caller: WhoAsks,
        owner: Annotated[str | None, Query(max_length=64)] = None,
        state: models.State | None = None,
        limit: Limit = 50,
        after: After = None,
    ) -> models.Sweeps:
        """The sweeps, the newest first."""
        known = [record for record in records.all() if owner is None or record.owner == owner]
        ids = [record.id for record in known]
        first = ids.index(after) + 1 if after in ids else 0
        answered = map(service.answer, known[first:])
        found, more = _page((one for one in answered if state in (None, one.state)), limit)
        page = models.Sweeps(items=found, next=found[-1].id if more else None)
        return _tagged(request, page)  # type: ignore[return-value]

    @app.get("/v1/sweeps/{sweep}", tags=["sweeps"], responses=_problems(404, 422))
    def sweep(request: Request, caller: WhoAsks, sweep: SweepId) -> models.Sweep:
        """A sweep and its progress."""
        return _tagged(request, service.answer(service.record(sweep)))  # type: ignore[return-value]

    @app.get(
        "/v1/sweeps/{sweep}/events",
        tags=["sweeps"],
        responses={200: {"content": {"text/event-stream": {}}}, **_problems(404, 422)},
        response_class=EventSourceResponse,
    )
    async def events(caller: WhoAsks, sweep: SweepId) -> EventSourceResponse:
        """Server-sent events: `sweep` each time that it changes, with what `GET /v1/sweeps/{sweep}` answers, until it
        has ended or was paused."""
        await run_in_threadpool(service.record, sweep)
        if service.watching[caller.name] >= MOST_STREAMS:
            raise HTTPException(429, f"you watch {MOST_STREAMS} sweeps, expected fewer", {"Retry-After": "10"})
        return EventSourceResponse(_watched(service, sweep, caller.name), headers={"Cache-Control": "no-cache"})

    @app.get("/v1/sweeps/{sweep}/runs", tags=["sweeps"], responses=_problems(404, 422))
    def runs(
        request: Request,
        caller: WhoAsks,
        sweep: SweepId,
        state: models.RunState | None = None,
        limit: Limit = 100,
        after: After = None,
    ) -> models.Runs:
        """The runs of a sweep in the order of its plan."""
        folder = records.of(service.record(sweep).id)
        names = answers.run_names(folder)
        first = names.index(after) + 1 if after in names else 0
        read = (answers.run_of(folder, name) for name in names[first:])
        found, more = _page((one for one in read if state in (None, one.state)), limit)
        page = models.Runs(items=found, next=found[-1].run if more else None)
        return _tagged(request, page)  # type: ignore[return-value]

    @app.get("/v1/sweeps/{sweep}/runs/{run}", tags=["sweeps"], responses=_problems(404, 422))
    def run(request: Request, caller: WhoAsks, sweep: SweepId, run: RunName) -> models.Run:
        """A run of a sweep."""
        folder = service.folder_with(run, sweep)
        return _tagged(request, answers.run_of(folder, run))  # type: ignore[return-value]


def _page(items: Iterator[M], limit: int) -> tuple[list[M], bool]:
    """The first of some items, and whether there are more."""
    found = list(islice(items, limit + 1))
    return found[:limit], len(found) > limit


async def _watched(service: Service, sweep: str, caller: str) -> AsyncIterator[ServerSentEvent]:
    service.watching[caller] += 1
    try:
        async for event in _changes(service, sweep):
            yield event
    finally:
        service.watching[caller] -= 1


async def _changes(service: Service, sweep: str) -> AsyncIterator[ServerSentEvent]:
    """The events of a sweep."""
    last: models.Sweep | None = None
    while True:
        record = await run_in_threadpool(service.records.get, sweep)
        if record is None:  # it was deleted
            return
        found = await run_in_threadpool(service.answer, record)
        if found != last:
            last = found
            yield ServerSentEvent(found.model_dump_json(), event="sweep")
            if found.state in (*models.ENDED, "paused"):
                return
        await asyncio.sleep(WATCH_SECONDS)


def _add_changing(app: FastAPI, service: Service) -> None:
    """Routes that submit sweeps and change them."""
    records = service.records
    WhoAsks = Annotated[Caller, Depends(service.guard.caller)]
    Submitted = Annotated[models.Submission, Depends(_submission)]

    @app.post("/v1/plan", tags=["sweeps"], responses=_problems(413, 415, 422), openapi_extra=SUBMISSION_BODY)
    def plan(caller: WhoAsks, submission: Submitted) -> models.Plan:
        """What a submission stands for; nothing is submitted. All of its mistakes at once, if it has any."""
        checked = service.checker.check(submission, caller.name)
        known = records.get(checked.id)
        done = service.answer(known).runs.done if known else 0
        slots = max(1, int(service.cluster.get().total.get("CPU", 1)))
        folders = [records.of(record.id) for record in records.all()]
        seconds, without = service.checker.estimate(submission, folders, slots)
        return models.Plan(
            id=checked.id,
            name=checked.name,
            setups=checked.setups,
            runs=checked.runs,
            done=done,
            seconds=seconds,
            without=without,
        )

    @app.post(
        "/v1/sweeps",
        tags=["sweeps"],
        status_code=201,
        responses={200: {"model": models.Sweep}, **_problems(409, 413, 415, 422)},
        openapi_extra=SUBMISSION_BODY,
    )
    def submit(response: Response, caller: WhoAsks, submission: Submitted) -> models.Sweep:
        """Submit a sweep or a setup. What the same owner submitted before is the same sweep, and the status is 200."""
        checked = service.checker.check(submission, caller.name)
        if (known := records.get(checked.id)) is not None:
            response.status_code = 200
            return service.answer(known)
        service.expect_room(caller.name)
        record = Record(
            id=checked.id,
            owner=caller.name,
            submission=submission,
            name=checked.name,
            runs=checked.runs,
            submitted=datetime.now(UTC),
            priority=submission.priority,
            at_once=submission.at_once,
        )
        record = records.add(record)
        service.drivers.check()
        response.headers["Location"] = f"/v1/sweeps/{record.id}"
        return service.answer(record)

    @app.patch("/v1/sweeps/{sweep}", tags=["sweeps"], responses=_problems(400, 403, 404, 413, 422))
    def change(caller: WhoAsks, sweep: SweepId, change: models.Change) -> models.Sweep:
        """Change how a sweep takes turns."""
        return service.changed(service.own(sweep, caller), **change.model_dump(exclude_unset=True))

    @app.post("/v1/sweeps/{sweep}/pause", tags=["sweeps"], responses=_problems(403, 404, 409, 422))
    def pause(caller: WhoAsks, sweep: SweepId) -> models.Sweep:
        """Save the runs of a sweep and stop it, until it is resumed."""
        record = service.own(sweep, caller)
        _expect_state(service.answer(record), but_not=models.ENDED)
        return service.changed(record, asked="pause")

    @app.post("/v1/sweeps/{sweep}/cancel", tags=["sweeps"], responses=_problems(403, 404, 409, 422))
    def cancel(caller: WhoAsks, sweep: SweepId) -> models.Sweep:
        """Save the runs of a sweep and end it; it can be resumed all the same."""
        record = service.own(sweep, caller)
        _expect_state(service.answer(record), but_not=("finished",))
        return service.changed(record, asked="cancel")

    @app.post("/v1/sweeps/{sweep}/resume", tags=["sweeps"], responses=_problems(400, 403, 404, 409, 413, 422))
    def resume(caller: WhoAsks, sweep: SweepId, how: models.Resumption | None = None) -> models.Sweep:
        """Continue a sweep that was paused or cancelled, or has failed; its failed runs are retried."""
        record = service.own(sweep, caller)
        found = service.answer(record)
        _expect_state(found, but_not=("finished",))
        if found.state not in ("paused", "cancelled", "failed", "stopping"):
            return found  # it goes on already
        if found.state in models.ENDED:
            service.expect_room(record.owner)
        service.drivers.forget(sweep)
        mix = record.mix_versions or (how is not None and how.mix_versions)
        return service.changed(record, asked="run", round=record.round + 1, mix_versions=mix)

    @app.delete("/v1/sweeps/{sweep}", tags=["sweeps"], status_code=204, responses=_problems(403, 404, 409, 422))
    def delete(caller: WhoAsks, sweep: SweepId) -> None:
        """Delete a sweep that has ended or was paused, with all its results."""
        record = service.own(sweep, caller)
        state = service.answer(record).state
        if state not in (*models.ENDED, "paused"):
            raise HTTPException(409, f"{sweep} is {state}, expected it to have ended: cancel it first")
        records.delete(sweep)


def _expect_state(sweep: models.Sweep, but_not: tuple[models.State, ...]) -> None:
    if sweep.state in but_not:
        raise HTTPException(409, f"{sweep.id} is {sweep.state} already")


def _add_results(app: FastAPI, service: Service) -> None:
    """Routes that return files."""
    records = service.records
    WhoAsks = Annotated[Caller, Depends(service.guard.caller)]

    @app.get(
        "/v1/sweeps/{sweep}/logs",
        tags=["results"],
        responses={200: {"content": {"text/plain": {}}}, **_problems(404, 422)},
        response_class=Response,
    )
    def logs(
        caller: WhoAsks,
        sweep: SweepId,
        offset: Annotated[int, Query(ge=0, le=2**53, description="The first byte.")] = 0,
    ) -> Response:
        """The log of the sweep's driver from a byte on; the header `X-Next-Offset` says where the next part begins."""
        content, following = answers.log_from(records.of(service.record(sweep).id), offset)
        return Response(content, media_type="text/plain; charset=utf-8", headers={"X-Next-Offset": str(following)})

    @app.get(
        "/v1/sweeps/{sweep}/results",
        tags=["results"],
        responses={
            200: {"content": {"text/csv": {}, "application/vnd.apache.parquet": {}}},
            **_problems(404, 409, 422),
        },
        response_class=Response,
    )
    def results(caller: WhoAsks, sweep: SweepId, format: Literal["csv", "parquet"] = "csv") -> Response:
        """The runs of a sweep so far, a row each."""
        content = answers.results_of(records.of(service.record(sweep).id), format)
        kind = "text/csv; charset=utf-8" if format == "csv" else "application/vnd.apache.parquet"
        return Response(content, media_type=kind, headers=_download(f"{sweep}.{format}"))

    @app.get(
        "/v1/sweeps/{sweep}/report",
        tags=["results"],
        responses={200: {"content": {"application/zip": {}}}, **_problems(404, 409, 422)},
        response_class=Response,
    )
    def report(caller: WhoAsks, sweep: SweepId) -> Response:
        """The report of a sweep, as a zip; it is written when its driver ends."""
        content = answers.report_of(records.of(service.record(sweep).id))
        if content is None:
            raise HTTPException(409, f"{sweep} has no report yet: it is written when its runs have ended")
        return Response(content, media_type="application/zip", headers=_download(f"{sweep}.zip"))

    @app.get("/v1/sweeps/{sweep}/runs/{run}/files", tags=["results"], responses=_problems(404, 422))
    def files(caller: WhoAsks, sweep: SweepId, run: RunName) -> models.Files:
        """The files of a run."""
        folder = service.folder_with(run, sweep)
        return models.Files(items=answers.files_of(folder, run))

    @app.get(
        "/v1/sweeps/{sweep}/runs/{run}/files/{file}",
        tags=["results"],
        responses={200: {"content": {"application/octet-stream": {}}}, **_problems(404, 422)},
        response_class=Response,
    )
    def file(caller: WhoAsks, sweep: SweepId, run: RunName, file: Annotated[str, Path(max_length=251)]) -> Response:
        """A file of a run."""
        folder = service.folder_with(run, sweep)
        if file not in {one.name for one in answers.files_of(folder, run)}:
            raise HTTPException(404, f"{run} has no file {file}")
        with open_plain(folder / "runs" / run / file) as opened:
            content = opened.read()
        return Response(content, media_type="application/octet-stream", headers=_download(file))


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
