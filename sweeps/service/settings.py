"""What the operator of a service decides."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """The settings of a service.

    Attributes:
        storage: the folder that holds everything; all nodes of the cluster see it.
        data: the folder that holds data sets.
        host: the address that it listens on.
        port: the port.
        allow: the classes (``module:Class``) and the paths of data sets and partitions that submissions may name.
        most_bytes: the largest body of a request.
        most_runs: the largest number of runs of a sweep.
        most_sweeps: the largest number of sweeps of an owner that have not ended.
        most_requests: the largest number of requests of a caller in a minute.
        cpus: what each run reserves; None: as :class:`sweeps.trainable.Resources` has it.
        gpus: likewise.
        retries: how often a failed run is retried.
        most_drivers: the largest number of sweeps with a driver; the others wait for one.
        import_from: the folder from which allowed classes are imported, too.
        keep_days: for how many days the files of Ray Tune are kept after a sweep has ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: Path
    data: Path
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    allow: tuple[str, ...] = ()
    most_bytes: Annotated[int, Field(ge=1000)] = 1_000_000
    most_runs: Annotated[int, Field(ge=1, le=20_000)] = 20_000
    most_sweeps: Annotated[int, Field(ge=1)] = 100
    most_requests: Annotated[int, Field(ge=1)] = 3000
    most_drivers: Annotated[int, Field(ge=1)] = 16
    import_from: Path = Path()
    cpus: Annotated[float, Field(ge=1e-4)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    retries: Annotated[int, Field(ge=0)] = 1
    keep_days: Annotated[float, Field(ge=0)] = 7.0

    @property
    def sweeps(self) -> Path:
        """The folder that holds a folder for each sweep."""
        return self.storage / "sweeps"

    @property
    def is_local(self) -> bool:
        """Whether it can be reached from this machine alone."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
