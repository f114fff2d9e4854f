"""The drivers of a service's sweeps: jobs of Ray's, which end with the cluster, so the service starts them again."""

import logging
import shlex
import sys
import threading
import time
from collections import deque
from contextlib import suppress

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from sweeps.service.progress import Report, read_report
from sweeps.service.records import Record, Records
from sweeps.service.settings import Settings
from sweeps.service.storage import is_stopping, remove_outdated
from sweeps.tuner import first_line

# How often all sweeps are looked at, in seconds.
ROUND_SECONDS = 1.0

# How often old files are looked for, in seconds.
TIDY_SECONDS = 3600.0

# A driver that does not end within so many seconds after it was asked to is killed.
STOP_SECONDS = 120.0

# A driver that ends without a word is started again at once, then after 2, 4, ... and at most so many seconds.
LONGEST_WAIT = 300.0

# Starts that are longer ago than this do not count, in seconds.
FORGET_SECONDS = 1800.0

LIVE = (JobStatus.PENDING, JobStatus.RUNNING)

logger = logging.getLogger(__name__)


def jobs_client() -> JobSubmissionClient:
    """A client for the jobs of the cluster that this process is connected to; there may be others on this machine."""
    return JobSubmissionClient(ray.get_runtime_context().gcs_address)


class Drivers:
    """Starts a driver for each sweep that is to be computed and has none.

    Args:
        settings: of the service.

    Attributes:
        live: the ids of sweeps that have a driver; None until that is known.
        failure: why no driver can be started, if it is so.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records = Records(settings.sweeps)
        self.live: frozenset[str] | None = None
        self._client: JobSubmissionClient | None = None
        self._starts: dict[str, deque[float]] = {}
        self._stopping: dict[str, float] = {}
        self._tidied = float("-inf")
        self.failure = ""
        self._ended = threading.Event()
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="drivers", daemon=True)

    def start(self) -> None:
        """Look after the sweeps from now on, in a thread."""
        self.records.tidy()
        self._thread.start()

    def stop(self) -> None:
        """Leave the sweeps alone; their drivers go on."""
        self._ended.set()
        self._again.set()

    def look(self) -> None:
        """Look at the sweeps at once: something was asked."""
        self._again.set()

    def _look_after(self) -> None:
        while not self._ended.is_set():
            try:
                self.look_once()
            except Exception as error:  # the cluster is being started or is under load: the next look may find it well
                text = f"no driver can be started: {first_line(str(error)) or type(error).__name__}"
                if text != self.failure:
                    logger.warning(text)
                self._client, self.failure = None, text
            else:
                self.failure = ""
            self._again.wait(ROUND_SECONDS)
            self._again.clear()

    def look_once(self) -> None:
        """Start and end drivers where that is due."""
        if self._client is None:
            self._client = jobs_client()
        live = [job for job in self._client.list_jobs() if job.status in LIVE]
        named = [(job.metadata or {}).get("byzray") for job in live]
        jobs = {name: str(job.submission_id) for name, job in zip(named, live, strict=True) if name is not None}
        self.live = frozenset(jobs)
        for record in self.records.all():
            report = read_report(self.records.of(record.id))
            if record.asked != "run":
                self._see_it_end(record, jobs.get(record.id))
            elif record.id not in jobs and not settled(record, report) and not is_stopping(self.settings):
                self._start(record)
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._tidy()

    def _start(self, record: Record) -> None:
        starts = self._starts.setdefault(record.id, deque())
        now = time.monotonic()
        while starts and now - starts[0] > FORGET_SECONDS:
            starts.popleft()
        wait = min(LONGEST_WAIT, 2.0 ** (len(starts) - 1)) if starts else 0.0
        if starts and now - starts[-1] < wait:
            return
        starts.append(now)
        assert self._client is not None
        command = [sys.executable, "-m", "sweeps.service.driver", str(self.settings.storage), record.id]
        self._client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=f"{record.id}-{time.time_ns() // 1_000_000}",
            metadata={"byzray": record.id, "owner": record.owner},
            entrypoint_num_cpus=0,
        )
        self.live = (self.live or frozenset()) | {record.id}

    def _see_it_end(self, record: Record, job: str | None) -> None:
        self._starts.pop(record.id, None)
        if job is None:
            self._stopping.pop(record.id, None)
        elif time.monotonic() - self._stopping.setdefault(record.id, time.monotonic()) > STOP_SECONDS:
            assert self._client is not None
            self._client.stop_job(job)

    def forget(self, sweep: str) -> None:
        """A sweep was resumed by its owner: its driver is started at once, however often it has ended."""
        with suppress(KeyError):
            del self._starts[sweep]

    def _tidy(self) -> None:
        for record in self.records.all():
            if settled(record, read_report(self.records.of(record.id))):
                remove_outdated(self.records.of(record.id), self.settings.keep_days)


def settled(record: Record, report: Report | None) -> bool:
    """Whether a sweep's driver has ended for good."""
    return report is not None and report.round == record.round and report.ended is not None and not report.ended.again
