"""Which setups belong together: panels, the unattacked run each is measured against, and names for all of them.

Setups are plain data here, so that a report needs no class of the user's own.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byzray.aggregators import AGGREGATORS
from byzray.defence import Defence
from byzray.options import importing_only
from byzray.preaggregators import PREAGGREGATORS

Plain = dict[str, Any]

PLACEMENTS = {"update": "standard", "server": "at the server", "worker": "at the workers"}
"""Where momentum is kept, in the order and the words of figures and tables."""

# Where a run computes, and what it draws, is no part of what it simulates.
NOT_SIMULATED = ("actors", "device", "seed")

# What may differ within a panel; and what the unattacked run may have otherwise than the panel, too.
WITHIN_PANEL = ("pre", "aggregator", "attack", "placement", "tolerated")
UNLIKE_REFERENCE = (*WITHIN_PANEL, "byzantine", "workers")

# In bytes.
LONGEST_SLUG = 200

# Fields (by the beginning of their dotted keys) that are in a panel's title, or in its model's name.
IN_TITLE = (
    "dataset",
    "model",
    "workers",
    "byzantine",
    "momentum.nesterov",
    "learning_rate.initial",
    "learning_rate.schedule",
)


def identity(setup: Plain, without: Iterable[str] = ()) -> str:
    """A key that setups share if they agree in everything but where they compute, their seed and `without`."""
    content = {key: value for key, value in setup.items() if key not in {*NOT_SIMULATED, *without}}
    content["momentum"] = {key: value for key, value in setup["momentum"].items() if key not in without}
    if "tolerated" in without and "byzantine" not in without and setup["tolerated"] != setup["byzantine"]:
        content["tolerated"] = setup["tolerated"]  # a choice of its own: it does not just follow
    return json.dumps(content, sort_keys=True)


def digest(key: str) -> str:
    """Ten hexadecimal digits that stand for a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Panel:
    """Setups that differ in nothing but the rule, the attack and where the momentum is kept.

    Attributes:
        name: for files and tables: ``mnist-n51-f24-rate0.5``.
        title: for people.
        details: what else its setups have in common, in words.
        setups: the digests of their identities.
        reference: the digest of the unattacked setup it is measured against; empty if there is none.
    """

    name: str
    title: str
    details: str
    setups: list[str]
    reference: str


@dataclass(frozen=True)
class Grid:
    """Every setup of a report, named and arranged.

    Attributes:
        setups: by the digest of their identity.
        facts: the values of each for tables, by digest.
        panels: in the order of the report.
    """

    setups: dict[str, Plain]
    facts: dict[str, Plain]
    panels: list[Panel]


def arrange(setups: Iterable[Plain]) -> Grid:
    """Find the panels of some setups, and name what is in them."""
    distinct: dict[str, Plain] = {}
    for setup in setups:
        distinct.setdefault(digest(identity(setup)), setup)
    names = Names(distinct.values())
    panels = _panels(distinct, names)
    home = {key: panel.name for panel in panels for key in panel.setups}
    reference = {key: panel.reference for panel in panels for key in panel.setups}
    facts = {
        key: {
            "setup": key,
            "pair": digest(identity(setup, ["placement"])),
            "panel": home.get(key, ""),
            "reference_setup": reference.get(key, ""),
            **names.facts(setup),
            "bound": guarantee(setup, Defence.bound),
            "kappa": guarantee(setup, Defence.kappa),
        }
        for key, setup in distinct.items()
    }
    return Grid(distinct, facts, panels)


def guarantee(setup: Plain, of: Callable[[Defence, int, int], float]) -> float:
    """The variance-norm bound of the setup's defence, or its robustness coefficient; NaN if it has none, or if a class
    of somebody's own is part of it.

    Such a class is not imported: a report runs no code that a run directory names.
    """
    try:
        with importing_only():
            pre = [PREAGGREGATORS.parse(part) for part in setup.get("pre") or ()]
            defence = Defence(pre, AGGREGATORS.parse(setup["aggregator"]))
        return float(of(defence, setup["workers"], setup["tolerated"]))
    except Exception:  # options that nobody checked
        return math.nan


class Names:
    """Names for the options of some setups, as short as possible but distinct."""

    def __init__(self, setups: Iterable[Plain]) -> None:
        setups = list(setups)
        kinds = ("dataset", "model", "attack")
        self.labels = {kind: _labels(setup[kind] for setup in setups if setup.get(kind)) for kind in kinds}
        self.labels["defence"] = _labels(map(_defence, setups))
        self.labels["split"] = _labels(map(_split, setups))

    def of(self, kind: str, setup: Plain) -> str:
        """The name of a setup's data set, model, split, defence or attack."""
        derived = {"defence": _defence, "split": _split}
        named = derived[kind](setup) if kind in derived else setup.get(kind)
        return self.labels[kind][json.dumps(named, sort_keys=True)] if named else "none"

    def facts(self, setup: Plain) -> Plain:
        """The values of a setup in tables."""
        return {
            "dataset": self.of("dataset", setup),
            "model": self.of("model", setup),
            "split": self.of("split", setup),
            "n": setup["workers"],
            "f": setup["byzantine"],
            "tolerated": setup["tolerated"],
            "rate": rate(setup),
            "nesterov": bool(setup["momentum"].get("nesterov", False)),
            "attack": self.of("attack", setup),
            "rule": self.of("defence", setup),
            "placement": str(setup["momentum"]["placement"]),
            "steps": setup["steps"],
        }


def rate(setup: Plain) -> str:
    """The initial learning rate, or the rates of a schedule."""
    schedule = setup["learning_rate"].get("schedule")
    if schedule:
        return " → ".join(f"{schedule[step]:g}" for step in sorted(schedule, key=int))
    return f"{setup['learning_rate'].get('initial') or math.nan:g}"


def _split(setup: Plain) -> Plain:
    """The split; a setup leaves the usual one out."""
    split: Plain = setup.get("split") or {"name": "shared"}
    return split


def _defence(setup: Plain) -> Plain:
    """The rule, or pre-aggregators and rule as if they were one: ``nnm+median``."""
    if not setup.get("pre"):
        return setup["aggregator"]
    parts = [*setup["pre"], setup["aggregator"]]
    options = {f"{part['name']}.{key}": value for part in parts for key, value in part.items() if key != "name"}
    return {"name": "+".join(part["name"].rpartition(":")[2] for part in parts), **options}


def _labels(options: Iterable[Plain]) -> dict[str, str]:
    """Names by the JSON of the options: those options are added to the name in which namesakes differ."""
    distinct = {json.dumps(one, sort_keys=True): one for one in options}
    namesakes = defaultdict(list)
    for one in distinct.values():
        namesakes[one["name"].rpartition(":")[2]].append(one)
    labels = {}
    for key, one in distinct.items():
        short = one["name"].rpartition(":")[2]
        others = namesakes[short]
        differing = [name for name in one if name != "name" and len({json.dumps(o.get(name)) for o in others}) > 1]
        if len({o["name"] for o in others}) > 1:
            short = one["name"]
        shown = [f"{name}={_word(one[name])}" for name in differing if one[name] is not None]
        labels[key] = f"{short} ({', '.join(shown)})" if shown else short
    return labels


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and "/" in value:
        return Path(value).stem
    return value if isinstance(value, str) else json.dumps(value)


def _panels(setups: dict[str, Plain], names: Names) -> list[Panel]:
    attacked: dict[str, list[str]] = defaultdict(list)
    for key, setup in setups.items():
        if setup.get("attack"):
            attacked[identity(setup, WITHIN_PANEL)].append(key)
    unattacked: dict[str, list[str]] = defaultdict(list)
    for key, setup in setups.items():
        if not setup.get("attack"):
            unattacked[identity(setup, UNLIKE_REFERENCE)].append(key)
    references = {}
    for panel, keys in attacked.items():
        example = setups[keys[0]]
        references[panel] = _reference(example, setups, unattacked[identity(example, UNLIKE_REFERENCE)])
    members = dict(attacked)
    used = set(references.values())
    for key, setup in setups.items():  # unattacked runs that nothing is measured against are shown for themselves
        if not setup.get("attack") and key not in used:
            members.setdefault(identity(setup, WITHIN_PANEL), []).append(key)
    described = _Titles({panel: setups[keys[0]] for panel, keys in members.items()}, names)
    panels = [
        Panel(described.name[panel], described.title[panel], described.details(panel), keys, references.get(panel, ""))
        for panel, keys in members.items()
    ]
    return sorted(panels, key=lambda panel: _natural(panel.name))


def _reference(attacked: Plain, setups: dict[str, Plain], candidates: list[str]) -> str:
    """The unattacked setup to measure against: `average` over the honest workers, else one with as many workers."""
    honest = attacked["workers"] - attacked["byzantine"]

    def rank(key: str) -> tuple[int, str]:
        setup = setups[key]
        average = setup["aggregator"]["name"] == "average" and not setup.get("pre")
        if setup["workers"] == honest:
            return (0 if average else 3), key
        return (1 if average else 2) if setup["workers"] == attacked["workers"] else 4, key

    best = min(candidates, key=rank, default="")
    return best if best and rank(best)[0] < 4 else ""


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Sorts f2 before f11, and 0.02 before 0.5."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


@dataclass
class _Titles:
    """Names and titles of panels: the usual fields, and those that distinguish panels that agree in these."""

    examples: dict[str, Plain]
    names: Names
    name: dict[str, str] = field(default_factory=dict)
    title: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for panel, setup in self.examples.items():
            alike[tuple(self._usual(setup).values())].append(panel)
        for panels in alike.values():
            flat = {panel: _flat(self.examples[panel]) for panel in panels}
            every = sorted({key for one in flat.values() for key in one})
            differing = [key for key in every if len({json.dumps(flat[panel].get(key)) for panel in panels}) > 1]
            for panel in panels:
                usual = self._usual(self.examples[panel])
                more = [f"{key.replace('_', ' ')} {_word(flat[panel].get(key))}" for key in differing]
                self.title[panel] = ", ".join([*filter(None, usual.values()), *more])
                self.name[panel] = self._unique(usual, more)

    def _usual(self, setup: Plain) -> dict[str, str]:
        facts = self.names.facts(setup)
        return {
            "dataset": facts["dataset"],
            "n": f"n = {facts['n']}",
            "f": f"f = {facts['f']}"
            + ("" if facts["tolerated"] == facts["f"] else f" ({facts['tolerated']} tolerated)"),
            "rate": f"rate {facts['rate']}",
            "nesterov": "Nesterov" if facts["nesterov"] else "",
        }

    def _unique(self, usual: dict[str, str], more: list[str]) -> str:
        words = [word.replace(" = ", "").replace(" ", "") for word in usual.values() if word] + more
        name = slug("-".join(words))
        taken = sum(1 for other in self.name.values() if other == name or other.startswith(f"{name}--"))
        return f"{name}--{taken + 1}" if taken else name

    def details(self, panel: str) -> str:
        """The rest of what the panel's setups have in common."""
        setup = self.examples[panel]
        words = [f"model {self.names.of('model', setup)}"]
        for key, value in _flat(setup).items():
            if value not in (None, False, 0) and not key.startswith(IN_TITLE):
                words.append(f"{re.sub('[._]', ' ', key)} {_word(value)}")
        return ", ".join(words)


def _flat(setup: Plain, prefix: str = "") -> Plain:
    """The fields by dotted key, without those that may differ within a panel."""
    flat: Plain = {}
    for key, value in setup.items():
        if not prefix and key in (*WITHIN_PANEL, *NOT_SIMULATED):
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "momentum.placement":
            flat[f"{prefix}{key}"] = value
    return flat


def slug(text: str) -> str:
    """`text` as the beginning of a file's name, which may have 255 bytes in all."""
    name = re.sub(r"[^\w.+=-]+", "_", text.replace(" → ", "-")).strip("_")
    return name if len(name.encode()) <= LONGEST_SLUG else f"{name[: LONGEST_SLUG // 4]}-{digest(text)}"
