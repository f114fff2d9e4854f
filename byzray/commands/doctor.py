"""byzray doctor."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from byzray.commands._shared import Address, DataRoot, out

if TYPE_CHECKING:
    from byzray.machine import Finding

# The timeout for a cluster, in seconds, as some nodes may not answer.
SECONDS = 300.0


def doctor(
    data: DataRoot = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The folder or URI for results on a cluster.", show_default="results"),
    ] = None,
    address: Address = None,
) -> None:
    """Report what this machine or a cluster can run, and how to fix what is missing."""
    from byzray.machine import examine

    broken = False
    colours = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "red"}
    for one in chain(examine(data), ray_findings(address, data, output)):
        out.print(f"[{colours[one.state]}]{one.state:<8}[/] {escape(f'{one.what:<24} {one.found}')}")
        for line in one.fix.splitlines():  # in full: a table would cut paths
            out.print(f"{'':9}{escape(line)}")
        broken |= one.state == "broken"
    if broken:
        raise typer.Exit(1)


def ray_findings(address: str | None, data: Path | None, output: str | None) -> Iterator["Finding"]:
    """The findings about Ray and its cluster, from a process of its own, as it may hang."""
    from byzray.machine import Finding

    asked = json.dumps([address, None if data is None else str(data), output])
    command = [sys.executable, "-P", "-m", "actors.doctor", asked]  # -P: not from the working folder
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):  # Ray may print lines, too
                    yield Finding(**json.loads(line))
            process.wait()
        finally:
            in_time = limit.is_alive()
            limit.cancel()
        if process.returncode and in_time:
            said.seek(0)
            reason = said.read().strip().splitlines()[-1:] or ["unknown"]
            yield Finding("broken", "Ray", reason[0], "see the logs in /tmp/ray/session_latest/logs")
    if not in_time:
        fix = "see the logs in /tmp/ray/session_latest/logs, on the head"
        yield Finding("broken", "Ray", f"no answer in {SECONDS:g} s", fix)
