"""Other implementations of the same rules, pre-aggregators and attacks, called as each of them is fastest.

None of them belongs to this repository or is a dependency of it. The code that was published with the paper is given as
a checkout; byzfl, krum and byzpy as a folder that they were installed into. What cannot be imported is left out.

Shapes in names: N submissions, of which H honest, D parameters, M rows of a pre-aggregator.
"""

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from byzray.aggregators import AGGREGATORS, Aggregator, Aksel, GeometricMedian, Krum, MultiKrum
from byzray.attacks import Attack, Little, View
from byzray.defence import Defence
from byzray.preaggregators import PREAGGREGATORS, PreAggregator
from byzray.step import Step
from byzray.submissions import Matrix, Mixed

PUBLISHED = "published code"
EVALUATIONS = 16  # of the rule, in search of an attack's factor

# A pre-aggregator counts as a rule here, and so does an attack: from all submissions it takes the honest ones, and
# returns one Byzantine submission.
ATTACKED = ("multi-krum", "trimmed-mean")
ATTACKS = {f"little, searched against {rule}": rule for rule in ATTACKED}
# A random mixture needs parts, and fltrust a root worker.
RULES = (
    *(name for name in AGGREGATORS.classes if name not in ("random-mixture", "fltrust")),
    *PREAGGREGATORS.classes,
    *ATTACKS,
)

# Submissions in some form, and f; returns (D,), or the rows (M, D) of a pre-aggregator: a tensor, an array or a list.
Call = Callable[[Any, int], Any]
Form = Callable[[Tensor], Any]


def matrix(rows_ND: Tensor) -> Tensor:
    """A tensor."""
    return rows_ND


def array(rows_ND: Tensor) -> Any:
    """An array of numpy."""
    return rows_ND.numpy()


def copied_array(rows_ND: Tensor) -> Any:
    """An array that may be written into."""
    return rows_ND.numpy().copy()


def array_of_few(rows_ND: Tensor) -> Any:
    """An array of up to 25 rows, a tensor of more, whose distances PyTorch takes from a product of matrices."""
    return rows_ND.numpy() if len(rows_ND) <= 25 else rows_ND


@dataclass(frozen=True)
class Entry:
    """A peer's implementation of one of our rules.

    Attributes:
        call: the implementation.
        same: given n and f, our rule of the same definition; none: we have no such.
        differs: how its definition differs from our default, in words.
        form: what it is given, made of the matrix (N, D) before every call.
    """

    call: Call
    same: Callable[[int, int], Call] | None
    differs: str = ""
    form: Form = matrix


@dataclass(frozen=True)
class Peer:
    """Another implementation.

    Attributes:
        name, version: which one.
        entries: its rules, by our names.
    """

    name: str
    version: str
    entries: dict[str, Entry]


def ours() -> dict[str, Call]:
    """byzray's rules, pre-aggregators and attacks with default options, by name."""
    return {name: _same(name)(0, 0) for name in RULES}


def refuses(name: str, n: int, f: int) -> bool:
    """Whether our rule or pre-aggregator cannot be called with n submissions of which f may be Byzantine."""
    found = PREAGGREGATORS if name in PREAGGREGATORS.classes else AGGREGATORS
    return name not in ATTACKS and found.classes[name]().check(n, f) is not None


def _same(name: str) -> Callable[[int, int], Call]:
    """Our rule, pre-aggregator or attack with default options, whatever n and f."""
    if name in AGGREGATORS.classes:
        return lambda n, f: AGGREGATORS.classes[name]()
    if name in PREAGGREGATORS.classes:
        part = PREAGGREGATORS.classes[name]()
        return lambda n, f: lambda rows_ND, f: mixed(part, rows_ND, f)
    target = AGGREGATORS.classes[ATTACKS[name]]()
    # On the positive side, as the published code sends another point than the one it found on the negative one.
    attack = Little(factor="searched", negative=False, evaluations=EVALUATIONS)
    return lambda n, f: lambda rows_ND, f: attacked(attack, rows_ND[: len(rows_ND) - f], f, target)[0]


def attacked(attack: Attack, honest_HD: Tensor, f: int, rule: Aggregator) -> Tensor:
    """The f Byzantine submissions of an attack on a rule, at the first step of a run."""
    step = Step(n=len(honest_HD) + f, f=f)
    return attack(honest_HD, View(step, f, Defence([], rule).at(step, {}), tuple(range(len(honest_HD)))))


def mixed(part: PreAggregator, rows_ND: Tensor, f: int) -> Tensor:
    """The rows (M, D) that a pre-aggregator makes at the first step of a run."""
    submissions = Matrix(rows_ND)
    return Mixed(part.weights(submissions, Step(n=len(rows_ND), f=f)), submissions).rows_ND


@cache
def order(n: int) -> list[int]:
    """That in which our bucketing takes n submissions at the first step of a run."""
    return Step(n=n).generator("bucketing").permutation(n).tolist()


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
    return Peer(PUBLISHED, "of 2021", _equal(list, calls))


def _equal(form: Form, calls: dict[str, Call]) -> dict[str, Entry]:
    """The entries of what a peer defines as we do by default, all of one form."""
    return {name: Entry(call, _same(name), form=form) for name, call in calls.items()}


def _byzfl(version: str) -> Peer:
    byzfl = importlib.import_module("byzfl")

    def rule(name: str) -> Call:
        return lambda rows, f: getattr(byzfl, name)(f)(rows)

    def fixed(name: str, **options: Any) -> Call:
        return lambda rows, f: getattr(byzfl, name)(**options)(rows)

    def attack(target: str) -> Call:
        def call(rows: Any, f: int) -> Tensor:
            search = byzfl.Optimal_ALittleIsEnough(
                agg=getattr(byzfl, target)(f), pre_agg_list=[], f=f, evals=EVALUATIONS, delta=1.0
            )
            return search(rows[: len(rows) - f])

        return call

    of_tensors = {
        "average": fixed("Average"),
        "centred-clipping": fixed("CenteredClipping", L=1, tau=10.0),
        "monna": rule("MoNNA"),
    }
    of_arrays = {
        "median": fixed("Median"),
        "trimmed-mean": rule("TrMean"),
        "meamed": rule("Meamed"),
        "minimum-diameter": rule("MDA"),
        "nnm": rule("NNM"),
    }
    changing = {"clipping": fixed("Clipping", c=2.0), "arc": rule("ARC")}
    otherwise = {
        "multi-krum": Entry(
            rule("MultiKrum"),
            lambda n, f: MultiKrum(squared=True, m=n - f),
            "squared distances, m = n-f",
            form=array_of_few,
        ),
        "krum": Entry(rule("Krum"), lambda n, f: Krum(squared=True), "squared distances", form=array_of_few),
        "geometric-median": Entry(
            fixed("GeometricMedian", nu=0.1, T=3),
            lambda n, f: GeometricMedian(iterations=3, nu=0.1, start="zero"),
            "three steps from 0",
        ),
        "smea": Entry(rule("SMEA"), None, "random power iteration"),
        "caf": Entry(rule("CAF"), None, "random power iteration"),
        "bucketing": Entry(fixed("Bucketing", s=2), None, "in an order of its own", form=array),
    }
    targets = {"multi-krum": (attack("MultiKrum"), array_of_few), "trimmed-mean": (attack("TrMean"), array)}
    for name, target in ATTACKS.items():
        call, form = targets[target]
        otherwise[name] = Entry(call, None, "searches elsewhere", form=form)
    equal = _equal(matrix, of_tensors) | _equal(array, of_arrays) | _equal(copied_array, changing)
    return Peer("byzfl", version, equal | otherwise)


def _krum(version: str) -> Peer:
    def rule(module: str, name: str, options: Callable[[Tensor, int], dict[str, Any]] = lambda rows_ND, f: {}) -> Call:
        aggregate = getattr(importlib.import_module(f"krum.primitives.aggregators.{module}"), name).aggregate
        return lambda rows_ND, f: aggregate(rows_ND, n=len(rows_ND), f=f, **options(rows_ND, f))

    def select(rows_ND: Tensor, f: int) -> dict[str, Any]:
        return {"m": len(rows_ND) - f - 2}

    def nearest(rows_ND: Tensor, f: int) -> dict[str, Any]:
        return {"num_closest": len(rows_ND) - f, "pivot": rows_ND[0]}

    def exact(rows_ND: Tensor, f: int) -> dict[str, Any]:
        return {"nu": 1e-6}  # by default 0.1, by which submissions do not differ near consensus

    paper: dict[str, Any] = {"squared": True, "neighbours": "n-f-2"}
    equal = {
        "average": rule("average", "Average"),
        "median": rule("median", "Median"),
        "trimmed-mean": rule("trimmed_mean", "TrimmedMean"),
        "minimum-diameter": rule("brute", "Brute"),
        "geometric-median": rule("geometric_median", "GeometricMedian", exact),
        "monna": rule("nearest_neighbor_average", "NearestNeighborAverage", nearest),
    }
    otherwise = {
        "multi-krum": Entry(
            rule("multikrum", "MultiKrum", select),
            lambda n, f: MultiKrum(**paper),
            "squared distances to n-f-2 neighbours",
        ),
        "krum": Entry(rule("krum", "Krum"), lambda n, f: Krum(**paper), "squared distances to n-f-2 neighbours"),
        "bulyan": Entry(rule("bulyan", "Bulyan", select), None, "scores anew in every round, ends with a trimmed mean"),
        "aksel": Entry(rule("aksel", "Aksel"), lambda n, f: Aksel(mode="n-f"), "averages n-f submissions"),
    }
    return Peer("krum", version, _equal(matrix, equal) | otherwise)


def _byzpy(version: str) -> Peer:
    def rule(path: str, options: Callable[[int, int], dict[str, Any]] = lambda n, f: {"f": f}) -> Call:
        module, _, name = path.rpartition(".")
        make = getattr(importlib.import_module(f"byzpy.{module}"), name)
        method = "pre_aggregate" if path.startswith("pre_aggregators") else "aggregate"
        return lambda rows, f: getattr(make(**options(len(rows), f)), method)(rows)

    def with_defaults(n: int, f: int) -> dict[str, Any]:
        return {}

    coordinates, geometry, norms = (f"aggregators.{kind}_wise" for kind in ("coordinate", "geometric", "norm"))
    clipping = {"c_tau": 10.0, "M": 1, "init": "zero"}
    equal = {
        "median": rule(f"{coordinates}.median.CoordinateWiseMedian", with_defaults),
        "trimmed-mean": rule(f"{coordinates}.trimmed_mean.CoordinateWiseTrimmedMean"),
        "meamed": rule(f"{coordinates}.mean_of_medians.MeanOfMedians"),
        "geometric-median": rule(f"{geometry}.geometric_median.GeometricMedian", with_defaults),
        "minimum-diameter": rule(f"{geometry}.minimum_diameter_average.MinimumDiameterAveraging"),
        "monna": rule(f"{geometry}.monna.MoNNA"),
        "smea": rule(f"{geometry}.smea.SMEA"),
        "centred-clipping": rule(f"{norms}.center_clipping.CenteredClipping", lambda n, f: clipping),
        "cge": rule(f"{norms}.comparative_gradient_elimination.ComparativeGradientElimination"),
        "nnm": rule("pre_aggregators.nnm.NearestNeighborMixing"),
        "bucketing": rule("pre_aggregators.bucketing.Bucketing", lambda n, f: {"bucket_size": 2, "perm": order(n)}),
        "clipping": rule("pre_aggregators.clipping.Clipping", lambda n, f: {"threshold": 2.0}),
        "arc": rule("pre_aggregators.arc.ARC"),
    }
    otherwise = {
        "multi-krum": Entry(
            rule(f"{geometry}.krum.MultiKrum", lambda n, f: {"f": f, "q": n - f - 2}),
            lambda n, f: MultiKrum(squared=True),
            "squared distances",
            form=list,
        ),
        "krum": Entry(rule(f"{geometry}.krum.Krum"), lambda n, f: Krum(squared=True), "squared distances", form=list),
        "caf": Entry(rule(f"{norms}.caf.CAF"), None, "three power iterations", form=list),
    }
    return Peer("byzpy", version, _equal(list, equal) | otherwise)
