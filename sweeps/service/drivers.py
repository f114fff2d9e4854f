"""The drivers of a service's sweeps: jobs of Ray's, which end with the cluster, so the service starts them again."""

import logging
import shlex
import sys
import threading
import time
from collections import Counter, deque

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from sweeps.service.progress import Report, read_report
from sweeps.service.records import Record, Records
from sweeps.service.settings import Settings
from sweeps.service.storage import digest_of, is_stopping, remove_outdated
from sweeps.tuner import first_line

# How often all sweeps are checked, in seconds.
ROUND_SECONDS = 1.0

# How often old files are removed, in seconds.
TIDY_SECONDS = 3600.0

# A driver that does not end within so many seconds after it was asked to is killed.
STOP_SECONDS = 120.0

# The next driver of a sweep whose drivers end by themselves is started after 1, 2, 4, ... and at most so many seconds.
LONGEST_WAIT = 300.0

# Starts that are longer ago than this do not count, in seconds.
FORGET_SECONDS = 1800.0

# A driver that has not reported for so many seconds is killed; the next one goes on from the checkpoints.
HUNG_SECONDS = 300.0

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
        waiting: the ids of sweeps that wait for one.
        failure: why no driver can be started, if it is so.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records = Records(settings.sweeps)
        self.live: frozenset[str] | None = None
        self.waiting: frozenset[str] = frozenset()
        self._service = digest_of(settings.storage)
        self._client: JobSubmissionClient | None = None
        self._starts: dict[str, deque[float]] = {}
        self._stopping: dict[str, float] = {}
        self._tidied = float("-inf")
        self.failure = ""
        self._ended = threading.Event()
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._keep_checking, name="drivers", daemon=True)

    def start(self) -> None:
        """Check the sweeps from now on, in a thread."""
        self.records.tidy()
        self._thread.start()

    def stop(self) -> None:
        """Leave the sweeps alone; their drivers go on."""
        self._ended.set()
        self._again.set()

    def check(self) -> None:
        """Check the sweeps at once: something was asked."""
        self._again.set()

    def _keep_checking(self) -> None:
        while not self._ended.is_set():
            try:
                self.check_once()
            except Exception as error:  # the cluster is being started or is under load: the next check may find it well
                text = f"no driver can be started: {first_line(str(error)) or type(error).__name__}"
                if text != self.failure:
                    logger.warning(text)
                self._client, self.failure = None, text
            else:
                self.failure = ""
            self._again.wait(ROUND_SECONDS)
            self._again.clear()

    def check_once(self) -> None:
        """Start and end drivers where that is due."""
        if self._client is None:
            self._client = jobs_client()
        jobs = self._live_jobs(self._client)
        self.live = frozenset(jobs)
        due: list[Record] = []
        owners: Counter[str] = Counter()
        for record in self.records.all():
            job = jobs.get(record.id)
            owners[record.owner] += job is not None
            report = read_report(self.records.of(record.id))
            if record.asked != "run":
                self._see_it_end(record, job)
                continue
            self._stopping.pop(record.id, None)
            if job is not None and report is not None and time.time() - report.updated > HUNG_SECONDS:
                self._client.stop_job(job)
            elif job is None and not settled(record, report):
                due.append(record)
        self._start_next(due, owners)
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._tidy()

    def _live_jobs(self, client: JobSubmissionClient) -> dict[str, str]:
        """The jobs of drivers that have not ended, by the ids of their sweeps; others are removed."""
        found = {}
        for job in client.list_jobs():
            service, _, sweep = (job.metadata or {}).get("byzray", "").partition("/")
            if service != self._service:
                continue
            if job.status in LIVE:
                found[sweep] = str(job.submission_id)
            elif job.status.is_terminal():
                client.delete_job(str(job.submission_id))
        return found

    def _start_next(self, due: list[Record], owners: Counter[str]) -> None:
        """Start drivers, as many as there may be: first for owners with the fewest."""
        self.waiting = frozenset()
        if is_stopping(self.settings):
            return
        while due and owners.total() < self.settings.most_drivers:
            first = min(due, key=lambda one: (owners[one.owner], -one.priority, one.submitted))
            due.remove(first)
            owners[first.owner] += self._start(first)
        self.waiting = frozenset(one.id for one in due)

    def _start(self, record: Record) -> bool:
        """Start a driver, unless the last ones of its sweep have just ended by themselves; returns whether it did."""
        starts = self._starts.setdefault(record.id, deque())
        now = time.monotonic()
        while starts and now - starts[0] > FORGET_SECONDS:
            starts.popleft()
        wait = min(LONGEST_WAIT, 2.0 ** (len(starts) - 1)) if starts else 0.0
        if starts and now - starts[-1] < wait:
            return False
        assert self._client is not None
        command = [sys.executable, "-m", "sweeps.service.driver", str(self.settings.storage), record.id]
        self._client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=f"{record.id}-{time.time_ns() // 1_000_000}",
            metadata={"byzray": f"{self._service}/{record.id}", "owner": record.owner},
            entrypoint_num_cpus=0,
        )
        starts.append(now)
        self.live = (self.live or frozenset()) | {record.id}
        return True

    def deaths(self, sweep: str) -> int:
        """How many drivers of a sweep have ended by themselves of late."""
        return max(0, len(self._starts.get(sweep, ())) - 1)

    def _see_it_end(self, record: Record, job: str | None) -> None:
        self._starts.pop(record.id, None)
        if job is None:
            self._stopping.pop(record.id, None)
        elif time.monotonic() - self._stopping.setdefault(record.id, time.monotonic()) > STOP_SECONDS:
            assert self._client is not None
            self._client.stop_job(job)

    def forget(self, sweep: str) -> None:
        """A sweep was resumed by its owner: its driver is started at once, however often it has ended."""
        self._starts.pop(sweep, None)

    def _tidy(self) -> None:
        for record in self.records.all():
            ended = record.asked != "run" or settled(record, read_report(self.records.of(record.id)))
            if ended and record.id not in (self.live or ()):
                remove_outdated(self.records.of(record.id), self.settings.keep_days)


def settled(record: Record, report: Report | None) -> bool:
    """Whether a sweep's driver has ended for good."""
    return report is not None and report.round == record.round and report.ended is not None and not report.ended.again
