"""How fast this machine could take the steps of the paper's MNIST setups at best.

Measures the rates of float32 matrix products and of copies in memory, and counts the operations and bytes that a step
cannot do without, whatever the program:

    python benchmarks/measured_limits.py [--threads N]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

GIGA = 1e9
SECONDS = 1.0  # of each measurement
FLOAT = 4  # bytes

# Of the paper's setups on MNIST: workers, of which honest ones; examples a batch; the layers of `full`.
N, H, BATCH = 51, 27, 83
PIXELS, HIDDEN, CLASSES = 784, 100, 10
D = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
TEST_EXAMPLES, INTERVAL = 10_000, 5


@dataclass(frozen=True)
class Rates:
    """What the machine does at best with so many threads.

    Attributes:
        threads: those that PyTorch used.
        products: matrix products by their shapes, in operations a second; an addition and a multiplication are two.
        copies: copies by their sizes, in bytes a second, those read and those written.
    """

    threads: int
    products: dict[str, float]
    copies: dict[str, float]

    @property
    def operations(self) -> float:
        """The rate of arithmetic that is taken as the limit: that of the fastest product."""
        return max(self.products.values())

    @property
    def bytes(self) -> float:
        """The memory rate that is taken as the limit: beyond the caches, as a step's matrices do not fit into them."""
        return self.copies[LARGE]

    def best(self, other: "Rates") -> "Rates":
        """The higher rates of two measurements: what else runs can only lower them."""
        products = {name: max(rate, other.products[name]) for name, rate in self.products.items()}
        copies = {name: max(rate, other.copies[name]) for name, rate in self.copies.items()}
        return Rates(self.threads, products, copies)


LARGE = "256 MiB, beyond the caches"
COPIES = {"256 KiB, in the caches": 1 << 18, LARGE: 1 << 28}


class Term(NamedTuple):
    """What a step needs for one purpose: its formula, and the value, of floating-point operations or of bytes."""

    purpose: str
    formula: str
    value: float


def best_seconds(work: Callable[[], object], seconds: float = SECONDS) -> float:
    """The least wall time of a call, repeated for so many seconds; what else runs can only make a call longer."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def measure_rates() -> Rates:
    """The rates with PyTorch's present number of threads."""
    rows = H * BATCH
    # The layers' products on a step's examples: forward, and the gradients of each worker's weights; and at its ease.
    shapes = {
        f"{rows}x{PIXELS} by {PIXELS}x{HIDDEN}, forward": ((rows, PIXELS), (PIXELS, HIDDEN)),
        f"{H} times {HIDDEN}x{BATCH} by {BATCH}x{PIXELS}, gradients": ((H, HIDDEN, BATCH), (H, BATCH, PIXELS)),
        "2048x2048 by 2048x2048": ((2048, 2048), (2048, 2048)),
    }
    products = {name: _product_rate(*pair) for name, pair in shapes.items()}
    copies = {name: _copy_rate(size) for name, size in COPIES.items()}
    return Rates(torch.get_num_threads(), products, copies)


def _product_rate(left_shape: Sequence[int], right_shape: Sequence[int]) -> float:
    left, right = torch.randn(left_shape), torch.randn(right_shape)
    product = left @ right
    operations = 2 * product.numel() * left_shape[-1]
    return operations / best_seconds(lambda: torch.matmul(left, right, out=product))


def _copy_rate(size: int) -> float:
    source, target = torch.zeros(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    return 2 * size / best_seconds(lambda: target.copy_(source))


def operations() -> list[Term]:
    """The floating-point operations of a step's matrix products; all others are few in comparison."""
    examples = H * BATCH
    first, second = 2 * PIXELS * HIDDEN, 2 * HIDDEN * CLASSES
    return [
        Term("forward", "2 h b (784·100 + 100·10)", examples * (first + second)),
        Term("gradients of the weights", "2 h b (784·100 + 100·10)", examples * (first + second)),
        Term("gradients of the hidden layer", "2 h b 100·10", examples * second),
        Term("evaluation", "2 · 10,000 (784·100 + 100·10) / 5", TEST_EXAMPLES * (first + second) / INTERVAL),
    ]


def traffic() -> list[Term]:
    """The bytes of a step that move at least once, without what the matrix products read and write themselves.

    A rule's own work is not counted, so that the limit is the same for all rules: it reads the submissions once.
    """
    matrix_HD, matrix_ND = FLOAT * H * D, FLOAT * N * D
    return [
        Term("examples gathered as bytes, written as floats", "(1 + 4) h b 784", (1 + FLOAT) * H * BATCH * PIXELS),
        Term("gradients read for their norms, which clip them", "4 h d", matrix_HD),
        Term("momentum: gradients and buffers read, buffers written", "3 · 4 h d", 3 * matrix_HD),
        Term("attack: Byzantine rows written", "4 (n - h) d", matrix_ND - matrix_HD),
        Term("rule: submissions read", "4 n d", matrix_ND),
        Term("aggregate written and read, parameters read and written", "4 · 4 d", 4 * FLOAT * D),
        Term("metrics: four vectors read, the past in float64 read and written", "(4 · 4 + 2 · 8) d", 32 * D),
    ]


def step_seconds(rates: Rates) -> float:
    """The least time of a step, in seconds: operations / rate + bytes / rate, nothing else and nothing overlapped."""
    total_operations = sum(term.value for term in operations())
    total_bytes = sum(term.value for term in traffic())
    return total_operations / rates.operations + total_bytes / rates.bytes


def report(rates: Rates) -> dict[str, Any]:
    """All of it as plain data: rates a second, terms, and the limit in seconds."""
    return {
        "threads": rates.threads,
        "products": rates.products,
        "copies": rates.copies,
        "operations a second": rates.operations,
        "bytes a second": rates.bytes,
        "operations": [term._asdict() for term in operations()],
        "bytes": [term._asdict() for term in traffic()],
        "seconds a step": step_seconds(rates),
    }


def rates_table(rates: Rates) -> Table:
    """The rates, those taken as the limit marked."""
    table = Table("rate", "at", "", title=f"threads: {rates.threads}", title_justify="left")
    for unit, measured, limit in (
        ("Gflop/s", rates.products, rates.operations),
        ("GB/s", rates.copies, rates.bytes),
    ):
        for name, rate in measured.items():
            table.add_row(f"{rate / GIGA:.1f} {unit}", name, "the limit" if rate == limit else "")
    return table


def terms_table(rates: Rates) -> Table:
    """The operations and bytes of a step, and the time that each takes at the limit."""
    table = Table("a step needs", "formula", "count", "ms at the limit", title_justify="left")
    for unit, terms, rate in (("Mflop", operations(), rates.operations), ("MB", traffic(), rates.bytes)):
        for term in terms:
            row = (f"{term.value / 1e6:.1f} {unit}", f"{1e3 * term.value / rate:.2f}")
            table.add_row(term.purpose, term.formula, *row)
    table.add_section()
    seconds = step_seconds(rates)
    table.add_row("in all", f"{1 / seconds:.1f} steps/s", "", f"{1e3 * seconds:.2f}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rates = measure_rates()
    console = Console()
    console.print(rates_table(rates), terms_table(rates))
    console.print(f"n = {N}, h = {H}, b = {BATCH}, d = {D}; evaluation every {INTERVAL} steps")


if __name__ == "__main__":
    main()
