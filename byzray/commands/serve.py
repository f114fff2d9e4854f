"""byzray serve, byzray service token."""

import getpass
import json
import signal
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from byzray.commands._shared import Address, Cpus, DataRoot, Gpus, Retries, err, number, out
from byzray.mistakes import WrongInput

DEFAULT_STORAGE = Path("service")

Storage = Annotated[Path, typer.Option(metavar="DIR", help="The folder that holds everything.")]

service = typer.Typer(no_args_is_help=True, help="Look after a service.")
token = typer.Typer(no_args_is_help=True, help="The tokens of a service: who may use it.")
service.add_typer(token, name="token")


def serve(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(parser=number(int, 1, 65535), metavar="N", help="The port.")] = 8000,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A module:Class or the path of a file that submissions may name. Repeatable."
        ),
    ] = None,
    num_cpus: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 1), metavar="N", help="CPUs of a cluster that is started here.", show_default="all"
        ),
    ] = None,
    num_gpus: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 0), metavar="N", help="GPUs of a cluster that is started here.", show_default="all"
        ),
    ] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    retries: Retries = 1,
    most_runs: Annotated[
        int, typer.Option(parser=number(int, 1, 20_000), metavar="N", help="The most runs of a sweep.")
    ] = 20_000,
    most_sweeps: Annotated[
        int, typer.Option(parser=number(int, 1), metavar="N", help="The most sweeps of an owner that have not ended.")
    ] = 100,
    most_drivers: Annotated[
        int, typer.Option(parser=number(int, 1), metavar="N", help="The most sweeps at a time; a driver takes 1 GB.")
    ] = 16,
    most_requests: Annotated[
        int, typer.Option(parser=number(int, 1), metavar="N", help="The most requests of a caller in a minute.")
    ] = 3000,
    most_bytes: Annotated[
        int, typer.Option(parser=number(int, 1000), metavar="N", help="The most bytes of a request.")
    ] = 1_000_000,
    keep_days: Annotated[
        float,
        typer.Option(parser=number(float, 0), metavar="N", help="Days for which Tune's files are kept after a sweep."),
    ] = 7,
    data: DataRoot = None,
    address: Address = None,
) -> None:
    """Serve: compute the sweeps that others submit, until Ctrl-C."""
    _expect_installed()
    from byzray.data import data_root
    from sweeps.service.settings import Settings
    from sweeps.service.supervisor import Supervisor
    from sweeps.service.tokens import Tokens

    settings = Settings(
        storage=storage.absolute(),
        data=data_root(data).absolute(),
        host=host,
        port=port,
        allow=tuple(allow or ()),
        import_from=Path.cwd(),
        most_drivers=most_drivers,
        most_bytes=most_bytes,
        most_runs=most_runs,
        most_sweeps=most_sweeps,
        most_requests=most_requests,
        cpus=cpus,
        gpus=gpus,
        retries=retries,
        keep_days=keep_days,
    )
    if not settings.is_local and not Tokens(settings.storage).all():
        raise WrongInput(
            f"--host: got {host}, which others can reach, and there is no token; expected 127.0.0.1, "
            f"or a token: byzray service token add {getpass.getuser()} --admin"
        )

    def say(text: str) -> None:
        err.print(f"byzray: {text}", markup=False)

    supervisor = Supervisor(settings, address, num_cpus, num_gpus, say)

    def stop(_number: int, _frame: FrameType | None) -> None:
        say("saving the runs in progress")
        supervisor.stop()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)
    say(f"http://{host}:{port} from {storage} in a moment; its log is {supervisor.log}")
    supervisor.run()


def _expect_installed() -> None:
    """Expect the packages of the service.

    Raises:
        byzray.mistakes.WrongInput: they are not installed.
    """
    needed = "fastapi", "fastapi_offline", "limits", "psutil", "sse_starlette"
    if missing := [name for name in needed if find_spec(name) is None]:
        raise WrongInput(f"the service is not installed ({', '.join(missing)}): pip install 'byzray[service]'")


@token.command()
def add(
    name: Annotated[str, typer.Argument(help="Of its owner.")],
    admin: Annotated[bool, typer.Option("--admin", help="It may change the sweeps of others.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Add a token, and print it; it cannot be printed again."""
    from sweeps.service.tokens import Tokens

    out.print(Tokens(storage.absolute()).add(name, admin), markup=False, soft_wrap=True)


@token.command()
def remove(
    name: Annotated[str, typer.Argument(help="Of its owner.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Remove a token. The sweeps of its owner stay."""
    from sweeps.service.tokens import Tokens

    Tokens(storage.absolute()).remove(name)


@token.command(name="list")
def list_tokens(
    storage: Storage = DEFAULT_STORAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the names of all tokens."""
    from sweeps.service.tokens import Tokens

    known = Tokens(storage.absolute()).all()
    if as_json:
        listed = [{"name": name, "admin": one.admin, "added": one.added.isoformat()} for name, one in known.items()]
        out.file.write(json.dumps(listed, indent=2) + "\n")
        return
    for name, one in known.items():
        out.print(f"{name}{'  admin' * one.admin}  since {one.added:%Y-%m-%d}", markup=False)
