"""What an actor costs in memory, and that the data set is held once per node.

Runs a few steps on fleets of growing size and prints the memory that each actor has for itself (USS: what would be
freed if it ended), next to the size of the data set in Ray's object store.

    python benchmarks/actor_memory.py [--dataset mnist] [--data DIR] [--actors 1 4 8]
"""

import argparse

import numpy as np
import psutil
import ray
from ray.util.state import list_objects
from rich.console import Console
from rich.table import Table

import actors
from actors.fleet import split
from byzray import Setup
from byzray.data import load_data

MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="name of a data set")
    parser.add_argument("--data", help="folder that holds data sets")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 4, 8], help="numbers of worker actors")
    options = parser.parse_args()
    setup = Setup.model_validate({"dataset": options.dataset, "steps": 10, "aggregator": "average"})
    data = load_data(setup, options.data)
    raw = sum(array.nbytes for array in (data.x_train, data.y_train, data.x_test, data.y_test))
    actors.connect()
    table = Table(title=f"{options.dataset}: {raw / MB:.1f} MB of examples")
    for column in (
        "worker actors",
        "USS of a worker",
        "USS of the server",
        "USS of all",
        "largest object in the store",
    ):
        table.add_column(column, justify="right")
    for count in options.actors:
        with actors.Fleet("memory", split(count, count)) as fleet:
            actors.simulate(setup.changed(workers=count), fleet=fleet, data=options.data)
            server, *workers = [psutil.Process(place["pid"]).memory_full_info().uss for place in fleet.locations]
            largest = max(stored.object_size for stored in list_objects(limit=10_000))
        row = (np.mean(workers), server, server + sum(workers), largest)
        table.add_row(str(count), *(f"{value / MB:.1f} MB" for value in row))
    ray.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
