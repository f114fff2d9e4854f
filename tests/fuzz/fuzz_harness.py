"""How the tests of this folder run the real command on hostile input, and count what came of it.

A case passes if the command ends within LIMIT seconds of computing with one of the exit codes that it may end with,
without a traceback, and, where it refuses, with a message.
"""

import contextlib
import faulthandler
import io
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import pytest

from byzray import commands

# What a report says before it is written, or refused.
ANNOUNCEMENT = "byzray: writing the report and its figures\n"

LIMIT = 5.0  # seconds for a case, of this process: others may keep the machine busy

# So many times as long a case may take by the clock; only one that waits takes longer.
PATIENCE = 12

# What a case may allocate beyond what the process holds already; a forged size in a header asks for far more.
MEMORY = 4 * 2**30

# Many cases, for hours when nobody waits.
CHAOS = bool(os.environ.get("BYZRAY_CHAOS"))

SEED = int(os.environ.get("BYZRAY_FUZZ_SEED", "20210504"))


def scaled(usual: int, chaos: int) -> int:
    """How many cases: usually, or with BYZRAY_CHAOS=1."""
    return chaos if CHAOS else usual


class Hang(BaseException):
    """A case took longer than LIMIT; no `except Exception` on the way stops it."""


@dataclass
class Count:
    """What came of the cases of one kind."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0

    def add(self, accepted: bool, seconds: float) -> None:
        """Count one more."""
        self.cases += 1
        self.accepted += accepted
        self.refused += not accepted
        self.slowest = max(self.slowest, seconds)


# By kind of input, for the table at the end of the session.
COUNTS: dict[str, Count] = {}


@dataclass
class Failures:
    """Cases of a test that did not pass: all of them are reported, not the first alone."""

    kind: str
    found: list[str] = field(default_factory=list)

    def check(self, problem: str | None, case: str) -> None:
        """Remember a case that did not pass, with what reproduces it."""
        if problem is not None:
            self.found.append(f"{problem}\n    {case}")

    def tell(self) -> None:
        """Fail the test if there are any."""
        shown = "\n".join(self.found[:20])
        if self.found:
            head = f"{len(self.found)} cases of '{self.kind}' failed (seed {SEED}), the first ones:"
            pytest.fail(f"{head}\n{shown}", pytrace=False)


@dataclass(frozen=True)
class Outcome:
    """What came of a command: its exit code, what it printed, and how long it took."""

    code: int | None
    out: str
    err: str
    seconds: float

    def problem(self, codes: Sequence[int] = (0, 2), named: str = "") -> str | None:
        """What is wrong with it, if anything.

        Args:
            codes: the exit codes that are all right.
            named: what the message of a refusal must mention.
        """
        if self.code is None:
            return f"took longer than {LIMIT:g} s, at {self.err}"
        if "Traceback" in self.out + self.err:
            return f"traceback: {self.err.strip()[-1500:]}"
        if self.code not in codes:
            return f"exit code {self.code}: {self.err.strip()[-500:]}"
        if self.code == 2 and len(self.err.split("byzray:", 1)[-1].strip()) < 8:
            return f"refused without a message: {self.err!r}"
        if self.code == 2 and self.err.replace(ANNOUNCEMENT, "").count("byzray: ") != 1:
            return f"not one message: {self.err!r}"
        # Consoles break lines and paths at any place.
        if self.code == 2 and named and _dense(named) not in _dense(self.err):
            return f"the message does not name {named!r}: {self.err!r}"
        return None


def _dense(text: str) -> str:
    return re.sub(r"\s", "", text)


@contextlib.contextmanager
def limited(seconds: float = LIMIT) -> Iterator[None]:
    """Raises Hang where the code within is after so long, and bounds what it may allocate."""

    def ring(_: int, frame: FrameType | None) -> None:
        raise Hang(_place(frame))

    memory, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    previous = signal.signal(signal.SIGALRM, ring)
    previous_profile = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
    # Native code does not see signals: the process then tells where it hangs, and ends.
    faulthandler.dump_traceback_later(2 * PATIENCE * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, previous_profile)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def _place(frame: FrameType | None) -> str:
    places = []
    while frame is not None and len(places) < 8:
        places.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places)


def byzray(*arguments: str, count: str | None = None, limit: float = LIMIT) -> Outcome:
    """Run the command in this process.

    Args:
        arguments: of the command line.
        count: the kind of input as which it is counted.
        limit: for how long it may run.
    """
    out, err = io.StringIO(), io.StringIO()
    argv, path = sys.argv, list(sys.path)
    began = time.process_time()
    code: int | None = 0
    try:
        sys.argv = ["byzray", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, on infinite numbers
            with limited(limit):
                commands.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Hang as hang:
        code = None
        err.write(str(hang))
    finally:
        sys.argv = argv
        sys.path[:] = path
    seconds = time.process_time() - began
    if count is not None:
        COUNTS.setdefault(count, Count()).add(code == 0, seconds)
    return Outcome(code, out.getvalue(), err.getvalue(), seconds)


def calls(function: Callable[[], object], count: str, refusals: tuple[type[Exception], ...] = ()) -> str | None:
    """What is wrong with a call of Python code that is expected to succeed, or to refuse; it is counted as a case.

    Args:
        function: what is called.
        count: the kind of input as which it is counted.
        refusals: the exceptions that are all right, with a message.
    """
    began = time.process_time()
    problem, accepted = None, False
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function()
        accepted = True
    except Hang as hang:
        problem = f"took longer than {LIMIT:g} s, at {hang}"
    except refusals as refusal:
        problem = None if str(refusal) else f"{type(refusal).__name__} without a message"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    COUNTS.setdefault(count, Count()).add(accepted, time.process_time() - began)
    return problem
