"""byzray conformance."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from byzray.commands._shared import Address, err, one_of, out
from byzray.devices import Device
from byzray.mistakes import WrongInput


def conformance(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of vectors.")],
    on_actors: Annotated[bool, typer.Option("--actors", help="Run trajectories on Ray actors.")] = False,
    device: Annotated[
        Device,
        typer.Option(
            parser=one_of(get_args(Device)),
            metavar="auto|cpu|cuda",
            help="Where rules, attacks and trajectories are computed.",
        ),
    ] = "auto",
    address: Address = None,
) -> None:
    """Replay vectors of the published code; fails if an error is over its tolerance."""
    from byzray.conformance.published import replay

    if not directory.is_dir():
        raise WrongInput(f"{directory}: expected a directory of vectors")
    failed, count = [], 0
    with _trajectory_starter(on_actors, address) as start:
        try:
            for case in replay(directory, start, device):
                count += 1
                verdict = "ok    " if case.passed else "FAILED"
                out.print(f"{verdict} {case.error:.2e} (at most {case.tolerance:.0e})  {case.name}", markup=False)
                if not case.passed:
                    failed.append(case)
        except ValueError as error:
            raise WrongInput(str(error)) from error
    if not count:
        raise WrongInput(f"{directory}: holds no cases")
    out.print(f"{count} cases, {count - len(failed)} within tolerance, {len(failed)} over")
    for case in failed:
        err.print(f"over tolerance: {case.name}: {case.error:.3e}, at most {case.tolerance:.0e}", markup=False)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _trajectory_starter(on_actors: bool, address: str | None) -> Iterator[Any]:
    from byzray.simulation import LocalSimulation

    if not on_actors:
        yield LocalSimulation
        return
    import actors
    from actors.fleet import split
    from actors.simulation import FleetSimulation

    actors.connect(address, dashboard=False)
    with actors.Fleet("conformance", split(9, 3)) as fleet:
        yield lambda setup, data, parameters: FleetSimulation(setup, data, fleet, parameters)
