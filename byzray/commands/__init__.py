"""The `byzray` command. Exit codes: 0 done, 1 failed or stopped, 2 the input is wrong, 130 interrupted at once."""

import io
import sys
import traceback
from typing import Annotated

import typer
from rich.markup import escape

from byzray import __version__
from byzray.commands import remote
from byzray.commands._shared import err, out
from byzray.commands.conformance import conformance
from byzray.commands.doctor import doctor
from byzray.commands.listing import list_options
from byzray.commands.report import report
from byzray.commands.run import run
from byzray.commands.serve import serve, service
from byzray.commands.show import show
from byzray.commands.sweep import sweep
from byzray.commands.verify import verify
from byzray.mistakes import Failure, Interrupted, WrongInput

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, show, sweep, report, verify, conformance, doctor, serve):
    app.command()(command)
app.command(name="list")(list_options)
for command in remote.commands():
    app.command(rich_help_panel="Commands for a service")(command)
app.add_typer(service, name="service")


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"byzray {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """The entry point; prints no traceback for mistakes in the input."""
    for stream in (sys.stdout, sys.stderr):  # names of files and terminals may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="byzray")
    except WrongInput as error:
        err.print(f"[red]byzray:[/] {escape(str(error))}")
        sys.exit(2)
    except Interrupted as error:
        err.print(f"[yellow]byzray:[/] {escape(str(error))}; the same command with --resume continues it")
        sys.exit(1)
    except (Failure, OSError) as error:  # OSError: a full disk, a folder that cannot be read
        err.print(f"[red]byzray:[/] failed: {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("[yellow]byzray:[/] aborted")
        sys.exit(130)
    except Exception as error:
        err.print(escape("".join(traceback.format_exception(error))), style="dim")
        err.print(f"[red]byzray:[/] failed: {escape(f'{type(error).__name__}: {error}')}")
        sys.exit(1)


if __name__ == "__main__":
    main()
