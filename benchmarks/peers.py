"""Other implementations of the same rules and attacks, called as each of them is fastest.

None of them belongs to this repository or is a dependency of it. The code that was published with the paper is given as
a checkout; byzfl, krum and byzpy as a folder that they were installed into. What cannot be imported is left out.

Shapes in names: N submissions, of which H honest, D parameters.
"""

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from byzray.aggregators import AGGREGATORS, Aggregator, Aksel, Krum, MultiKrum
from byzray.attacks import Attack, Little, View
from byzray.defence import Defence
from byzray.step import Step

PUBLISHED = "published code"
EVALUATIONS = 16  # of the rule, in search of an attack's factor

# An attack counts as a rule here: from all submissions it takes the honest ones, and returns one Byzantine submission.
ATTACKED = ("multi-krum", "trimmed-mean")
ATTACKS = {f"little, searched against {rule}": rule for rule in ATTACKED}
# A random mixture needs parts, and fltrust a root worker.
RULES = tuple(name for name in AGGREGATORS.classes if name not in ("random-mixture", "fltrust")) + tuple(ATTACKS)

# Submissions, as a matrix or as a list of its rows, and f; returns (D,).
Call = Callable[[Any, int], Tensor]


@dataclass(frozen=True)
class Entry:
    """A peer's implementation of one of our rules.

    Attributes:
        call: the implementation.
        same: given n and f, our rule of the same definition; none: we have no such.
        differs: how its definition differs from our default, in words.
    """

    call: Call
    same: Callable[[int, int], Call] | None
    differs: str = ""


@dataclass(frozen=True)
class Peer:
    """Another implementation.

    Attributes:
        name, version: which one.
        rows: whether it takes a list of rows rather than a matrix.
        entries: its rules, by our names.
    """

    name: str
    version: str
    rows: bool
    entries: dict[str, Entry] = field(default_factory=dict)


def ours() -> dict[str, Call]:
    """byzray's rules and attacks with default options, by name."""
    return {name: _same(name)(0, 0) for name in RULES}


def _same(name: str) -> Callable[[int, int], Call]:
    """Our rule or attack with default options, whatever n and f."""
    if name not in ATTACKS:
        return lambda n, f: AGGREGATORS.classes[name]()
    target = AGGREGATORS.classes[ATTACKS[name]]()
    # On the positive side, as the published code sends another point than the one it found on the negative one.
    attack = Little(factor="searched", negative=False, evaluations=EVALUATIONS)
    return lambda n, f: lambda rows_ND, f: attacked(attack, rows_ND[: len(rows_ND) - f], f, target)[0]


def attacked(attack: Attack, honest_HD: Tensor, f: int, rule: Aggregator) -> Tensor:
    """The f Byzantine submissions of an attack on a rule, at the first step of a run."""
    step = Step(n=len(honest_HD) + f, f=f)
    return attack(honest_HD, View(step, f, Defence([], rule).at(step, {}), tuple(range(len(honest_HD)))))


def load(checkout: Path | None, folder: Path | None) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be imported, and why others cannot.

    Args:
        checkout: a checkout of the published code, if that is to be among them.
        folder: where other peers were installed by `pip install --target`; by default where Python finds them.
    """
    if folder is not None:
        sys.path.append(str(folder.resolve()))
    found: list[Peer] = []
    absent: dict[str, str] = {}
    if checkout is not None:
        found.append(_published(checkout))
    for name, make in (("byzfl", _byzfl), ("krum", _krum), ("byzpy", _byzpy)):
        try:
            found.append(make(metadata.version(name)))
        except Exception as error:  # it is not installed, or whatever else a peer does when it is imported
            absent[name] = f"{type(error).__name__}: {error}"
    return found, absent


@contextmanager
def published_copy(checkout: Path, data: Path | None = None) -> Iterator[Path]:
    """A copy of the published code that runs today: without its dangling link, and with MNIST where it looks for it.

    Args:
        checkout: what is copied.
        data: the folder that holds MNIST as torchvision puts it.
    """
    if not (checkout / "attack.py").is_file():
        raise SystemExit(f"{checkout}: expected a checkout of the published code, there is no attack.py")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "published"
        shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        for path in copy.rglob("*"):
            if path.is_symlink() and not path.exists():  # wide_resnet.py, of a submodule that is not there
                path.unlink()
        if data is not None:
            cache = copy / "experiments" / "datasets" / "cache"
            cache.mkdir(exist_ok=True)
            if not (cache / "MNIST").exists():
                (cache / "MNIST").symlink_to((data / "MNIST").resolve())
        yield copy


def _published(checkout: Path) -> Peer:
    streams = sys.stdout, sys.stderr, sys.excepthook
    with published_copy(checkout) as copy:
        sys.path.insert(0, str(copy))
        try:
            gars = importlib.import_module("aggregators").gars
            attacks = importlib.import_module("attacks").attacks
        finally:
            sys.path.remove(str(copy))
            sys.stdout, sys.stderr, sys.excepthook = streams  # which it wraps

    def rule(name: str, **options: Any) -> Call:
        # Unchecked, as its own script runs it (python -OO).
        return lambda rows, f: gars[name].unchecked(gradients=rows, f=f, **options)

    def attack(target: str) -> Call:
        def call(rows: list[Tensor], f: int) -> Tensor:
            return attacks["little"].unchecked(
                grad_honests=rows[: len(rows) - f],
                f_real=f,
                f_decl=f,
                defense=gars[target].unchecked,
                model=None,
                factor=-EVALUATIONS,
            )[0]

        return call

    names = {"multi-krum": "krum", "trimmed-mean": "trmean", "minimum-diameter": "brute"}
    calls = {name: rule(names.get(name, name)) for name in RULES if names.get(name, name) in gars}
    calls["krum"] = rule("krum", m=1)
    calls |= {name: attack(names[target]) for name, target in ATTACKS.items()}
    return Peer(PUBLISHED, "of 2021", True, {name: Entry(call, _same(name)) for name, call in calls.items()})


def _byzfl(version: str) -> Peer:
    byzfl = importlib.import_module("byzfl")

    def rule(name: str) -> Call:
        return lambda rows_ND, f: getattr(byzfl, name)(f)(rows_ND)

    def attack(target: str) -> Call:
        def call(rows_ND: Tensor, f: int) -> Tensor:
            search = byzfl.Optimal_ALittleIsEnough(
                agg=getattr(byzfl, target)(f), pre_agg_list=[], f=f, evals=EVALUATIONS, delta=1.0
            )
            return search(rows_ND[: len(rows_ND) - f])

        return call

    targets = {"multi-krum": "MultiKrum", "trimmed-mean": "TrMean"}
    searched = {name: Entry(attack(targets[target]), None, "searches elsewhere") for name, target in ATTACKS.items()}
    return Peer(
        "byzfl",
        version,
        False,
        {
            "average": Entry(lambda rows_ND, f: byzfl.Average()(rows_ND), _same("average")),
            "median": Entry(lambda rows_ND, f: byzfl.Median()(rows_ND), _same("median")),
            "trimmed-mean": Entry(rule("TrMean"), _same("trimmed-mean")),
            "meamed": Entry(rule("Meamed"), _same("meamed")),
            "multi-krum": Entry(
                rule("MultiKrum"), lambda n, f: MultiKrum(squared=True, m=n - f), "squared distances, m = n-f"
            ),
            "krum": Entry(rule("Krum"), lambda n, f: Krum(squared=True), "squared distances"),
            "minimum-diameter": Entry(rule("MDA"), _same("minimum-diameter")),
            **searched,
        },
    )


def _krum(version: str) -> Peer:
    def rule(module: str, name: str, select: bool = False) -> Call:
        aggregate = getattr(importlib.import_module(f"krum.primitives.aggregators.{module}"), name).aggregate

        def call(rows_ND: Tensor, f: int) -> Tensor:
            n = len(rows_ND)
            options = {"m": n - f - 2} if select else {}
            return aggregate(rows_ND, n=n, f=f, **options)

        return call

    paper: dict[str, Any] = {"squared": True, "neighbours": "n-f-2"}
    return Peer(
        "krum",
        version,
        False,
        {
            "average": Entry(rule("average", "Average"), _same("average")),
            "median": Entry(rule("median", "Median"), _same("median")),
            "trimmed-mean": Entry(rule("trimmed_mean", "TrimmedMean"), _same("trimmed-mean")),
            "multi-krum": Entry(
                rule("multikrum", "MultiKrum", select=True),
                lambda n, f: MultiKrum(**paper),
                "squared distances to n-f-2 neighbours",
            ),
            "krum": Entry(rule("krum", "Krum"), lambda n, f: Krum(**paper), "squared distances to n-f-2 neighbours"),
            "bulyan": Entry(
                rule("bulyan", "Bulyan", select=True), None, "scores anew in every round, ends with a trimmed mean"
            ),
            "minimum-diameter": Entry(rule("brute", "Brute"), _same("minimum-diameter")),
            "aksel": Entry(rule("aksel", "Aksel"), lambda n, f: Aksel(mode="n-f"), "averages n-f submissions"),
        },
    )


def _byzpy(version: str) -> Peer:
    def rule(module: str, name: str, options: Callable[[int, int], dict[str, int]]) -> Call:
        make = getattr(importlib.import_module(f"byzpy.aggregators.{module}"), name)
        return lambda rows, f: make(**options(len(rows), f)).aggregate(rows)

    def tolerating(n: int, f: int) -> dict[str, int]:
        return {"f": f}

    return Peer(
        "byzpy",
        version,
        True,
        {
            "median": Entry(rule("coordinate_wise.median", "CoordinateWiseMedian", lambda n, f: {}), _same("median")),
            "trimmed-mean": Entry(
                rule("coordinate_wise.trimmed_mean", "CoordinateWiseTrimmedMean", tolerating), _same("trimmed-mean")
            ),
            "multi-krum": Entry(
                rule("geometric_wise.krum", "MultiKrum", lambda n, f: {"f": f, "q": n - f - 2}),
                lambda n, f: MultiKrum(squared=True),
                "squared distances",
            ),
            "krum": Entry(
                rule("geometric_wise.krum", "Krum", tolerating), lambda n, f: Krum(squared=True), "squared distances"
            ),
            "minimum-diameter": Entry(
                rule("geometric_wise.minimum_diameter_average", "MinimumDiameterAveraging", tolerating),
                _same("minimum-diameter"),
            ),
            "cge": Entry(
                rule("norm_wise.comparative_gradient_elimination", "ComparativeGradientElimination", tolerating),
                _same("cge"),
            ),
        },
    )
