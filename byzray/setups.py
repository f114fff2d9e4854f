"""A setup: the full description of one simulation, as a setup file holds it."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from byzray.aggregators import AGGREGATORS, AnyAggregator
from byzray.aggregators.multi_krum import MultiKrum
from byzray.attacks import ATTACKS, AnyAttack
from byzray.datasets import DATASETS, Dataset
from byzray.datasets.digits import Digits
from byzray.defence import Defence
from byzray.devices import Device
from byzray.faults import Event, Faults
from byzray.mistakes import SetupError, in_plain_words, lines, mistake, short
from byzray.models import MODELS, Model, Output
from byzray.models._trial import problem
from byzray.models.mlp import MLP
from byzray.options import Options, Registry
from byzray.preaggregators import PREAGGREGATORS, AnyPreAggregator
from byzray.splits import SPLITS, AnySplit
from byzray.splits.shared import Shared
from byzray.yaml import read_yaml, write_yaml

AnyDataset = Annotated[Dataset, BeforeValidator(DATASETS.parse), PlainSerializer(lambda option: option.describe())]
AnyModel = Annotated[Model, BeforeValidator(MODELS.parse), PlainSerializer(lambda option: option.describe())]

REGISTRIES: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "split": SPLITS,
    "pre": PREAGGREGATORS,
    "aggregator": AGGREGATORS,
    "attack": ATTACKS,
}

Loss = Literal["nll", "cross-entropy", "bce", "mse"]
Placement = Literal["worker", "server", "update"]

# Factors of float32 tensors, which hold no larger numbers.
LARGEST_FLOAT = 1e38

# What a network must return for a loss to make sense of it.
FITTING_OUTPUTS: dict[Loss, tuple[Output, ...]] = {
    "nll": ("log-probabilities",),
    "cross-entropy": ("scores", "log-probabilities"),
    "bce": ("probabilities",),
    "mse": ("probabilities", "scores"),
}


class Section(BaseModel):
    """A part of a setup: immutable, with no unknown keys and no values of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Schedule = Annotated[
    dict[NonNegativeInt, Annotated[PositiveFloat, Field(le=LARGEST_FLOAT, allow_inf_nan=False)]],
    AfterValidator(lambda schedule: dict(sorted(schedule.items()))),
]


class LearningRate(Section):
    """Hyperbolic decay from an initial rate, or a piecewise-constant schedule.

    Attributes:
        initial: the rate at step 0.
        half_life: the number of steps after which the rate is halved; none: it stays constant.
        every: the rate changes only at multiples of this number of steps.
        schedule: from which step on which rate; excludes the other three.
    """

    initial: PositiveFloat | None = Field(default=None, le=LARGEST_FLOAT, allow_inf_nan=False)
    half_life: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    every: PositiveInt = 1
    schedule: Schedule | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.initial is None) == (self.schedule is None):
            raise ValueError("expected either 'initial' (with 'half_life' and 'every') or 'schedule'")
        if self.schedule is not None:
            if self.half_life is not None or self.every != 1:
                raise ValueError("expected no 'half_life' and no 'every', which belong to 'initial', not to 'schedule'")
            if 0 not in self.schedule:
                raise ValueError("expected a schedule that starts at step 0")
        return self

    def at(self, step: int) -> float:
        """The rate eta_t in force at a step."""
        if self.schedule is not None:
            return self.schedule[max(start for start in self.schedule if start <= step)]
        assert self.initial is not None
        if self.half_life is None:
            return self.initial
        return self.initial / (step // self.every * self.every / self.half_life + 1)


class Momentum(Section):
    """Momentum and where it is kept.

    By its `name` it is `heavy-ball`, m <- beta m + (1 - dampening) g, or `mvr`: momentum with variance reduction, m <-
    g + (1 - a)(m - g'), where g' is the gradient of the same batch at the previous point (Cutkosky and Orabona, 2019).
    That is heavy-ball momentum with beta = dampening = 1 - a, plus (1 - a)(g - g'); it is kept at the workers.

    Attributes:
        name: which momentum.
        beta: the factor mu of the past, 0 for none.
        dampening: kappa; gradients enter with the factor 1 - kappa.
        nesterov: whether gradients are taken at the look-ahead point.
        placement: at each worker, at the server before aggregation, or in the update after aggregation (the standard).
        a: of `mvr` alone: how much of each gradient enters.
    """

    name: Literal["heavy-ball", "mvr"] = "heavy-ball"
    beta: float = Field(default=0.9, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    nesterov: bool = False
    placement: Placement = "worker"
    a: float | None = Field(default=None, ge=1e-6, le=1)

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, dict):
            return data
        if data.get("name", "heavy-ball") != "mvr":
            if data.get("a") is not None:
                raise ValueError("expected no 'a', which belongs to {name: mvr}")
            return data
        others = data.keys() - {"name", "a"}
        if data.get("placement") == "worker":
            others -= {"placement"}
        if others:
            raise ValueError(
                f"expected no {sorted(others)[0]!r} with mvr, whose only option is 'a': it is kept at the workers"
            )
        a = data.get("a", 0.1)
        known = isinstance(a, int | float) and not isinstance(a, bool) and 1e-6 <= a <= 1
        return {"name": "mvr", "a": a, **({"beta": 1.0 - a, "dampening": 1.0 - a} if known else {})}

    @model_serializer
    def _in_its_fields(self) -> dict[str, Any]:
        """What earlier versions wrote, where it is what they had."""
        fields = ("name", "a") if self.name == "mvr" else ("beta", "dampening", "nesterov", "placement")
        return {field: getattr(self, field) for field in fields}


class Study(Section):
    """The study of gradients at every step.

    Attributes:
        past: how many past steps enter the composite curvature.
    """

    past: PositiveInt = 1


class Actors(Section):
    """How a run is laid out on Ray actors.

    Attributes:
        workers_per_actor: how many workers live together in one actor.
        cpus_per_actor: CPUs that Ray reserves for each actor, the server included; none: an even share of the
            cluster's, at most 1.
        gpus_per_actor: the same for GPUs, which Ray hands out in fractions.
    """

    workers_per_actor: PositiveInt = 1
    cpus_per_actor: float | None = Field(default=None, ge=1e-4, allow_inf_nan=False)
    gpus_per_actor: NonNegativeFloat | None = Field(default=None, allow_inf_nan=False)

    @field_validator("gpus_per_actor")
    @classmethod
    def _as_ray_counts(cls, gpus: float | None) -> float | None:
        if gpus is not None and (0 < gpus < 1e-4 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError("expected 0, a share from 0.0001 to 1, or a whole number")
        return gpus


class Combination(NamedTuple):
    """A mistake that no field makes alone."""

    at: str
    fields: frozenset[str]
    message: str


def _rate(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"initial": value}
    if not isinstance(value, dict | LearningRate):
        raise ValueError("expected a number, or a mapping with 'initial' (and 'half_life', 'every') or 'schedule'")
    return value


def _study(value: Any) -> Any:
    # 1 == True, but `study: 1` may well be meant as `{past: 1}`.
    if value is True or value == "on":
        return {}
    if value is False or value == "off":
        return None
    if not isinstance(value, dict | Study | None):
        raise ValueError("expected on, off, or a mapping with 'past'")
    return value


def _list(value: Any) -> Any:
    if value is None or value == "none":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _none(value: Any) -> Any:
    return None if value == "none" else value


class Setup(Section):
    """The full description of one simulation. Every field has a default; see `examples/` for setups to start from.

    Attributes:
        dataset: the data set, by name or with options.
        model: the model, likewise.
        loss: what is minimised.
        batch_size: examples a worker draws for one gradient.
        steps: the number of SGD steps.
        learning_rate: a number, a hyperbolic decay or a schedule.
        momentum: see :class:`Momentum`.
        l1: the factor of ||theta||_1 in the loss.
        l2: the factor of ||theta||_2 (the norm, not its square) in the loss.
        clip: the largest norm of a gradient; longer ones are scaled down to it.
        split: which training examples are whose; by default all workers draw from one stream.
        workers: n, honest and Byzantine together.
        byzantine: how many of them attack.
        tolerated: f, how many the aggregator is told to tolerate; by default as many as there are.
        pre: pre-aggregators, in the order in which they are applied before the rule.
        aggregator: the rule, or a random mixture of rules.
        attack: what the adversary does, or none.
        evaluation_interval: the accuracy is measured every so many steps and at the end; 0: at the end alone.
        study: whether the 24 metrics are computed at every step (`on`, `off`, or `{past: P}`).
        actors: the layout on Ray actors; none: in this process.
        device: where tensors live; auto: on a GPU where there is one.
        seed: what all randomness follows from.
        local_steps: SGD steps a worker takes by itself before it submits the sum of the gradients it met.
        faults: which honest workers fail, and when, see :class:`byzray.faults.Faults`; or none.
        divergence: what happens when the parameters are not finite: the run goes on to its end, or stops.
    """

    dataset: AnyDataset = Digits()
    model: AnyModel = MLP()
    loss: Loss = "nll"
    batch_size: PositiveInt = 4
    steps: NonNegativeInt = 300
    learning_rate: Annotated[LearningRate, BeforeValidator(_rate)] = LearningRate(initial=0.2)
    momentum: Momentum = Momentum()
    l1: NonNegativeFloat = Field(default=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)
    l2: NonNegativeFloat = Field(default=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)
    clip: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    split: AnySplit = Shared()
    workers: PositiveInt = 11
    byzantine: NonNegativeInt = 0
    tolerated: NonNegativeInt = 0
    pre: Annotated[list[AnyPreAggregator], BeforeValidator(_list)] = []
    aggregator: AnyAggregator = MultiKrum()
    attack: Annotated[AnyAttack | None, BeforeValidator(_none)] = None
    evaluation_interval: NonNegativeInt = 10
    study: Annotated[Study | None, BeforeValidator(_study)] = Study()
    actors: Annotated[Actors | None, BeforeValidator(_none)] = Actors()
    device: Device = "auto"
    seed: NonNegativeInt = Field(default=1, le=2**63 - 1)  # what YAML files hold
    local_steps: PositiveInt = 1
    faults: Annotated[Faults | None, BeforeValidator(_none)] = None
    divergence: Literal["go-on", "stop"] = "go-on"

    @property
    def honest(self) -> int:
        """h, the number of honest workers."""
        return self.workers - self.byzantine

    @property
    def trained(self) -> range:
        """The workers that train, the honest ones first: those, and the Byzantine ones if the attack has them train."""
        return range(self.workers if self.attack is not None and self.attack.trains else self.honest)

    def options(self) -> dict[str, list[Options]]:
        """All that this setup names, by field: built-in classes and the user's own."""
        found: dict[str, list[Options]] = {field: [] for field in REGISTRIES}
        for field, options in found.items():
            value = getattr(self, field)
            options += value if isinstance(value, list) else [] if value is None else [value, *value.parts()]
        return found

    @cached_property
    def defence(self) -> Defence:
        """The pre-aggregators and the rule."""
        return Defence(self.pre, self.aggregator)

    @property
    def workers_report_moments(self) -> bool:
        """Whether the study needs from the workers what the server does not see: gradients before momentum."""
        return self.study is not None and self.momentum.placement == "worker"

    def missing_at(self, step: int) -> tuple[int, ...]:
        """The honest workers without whose submissions the server does a step, in order."""
        return () if self.faults is None else self.faults.missing_at(step)

    def present(self, workers: range, step: int) -> int:
        """How many honest ones of some workers have their submissions aggregated at a step."""
        missing = self.missing_at(step)
        return sum(worker < self.honest and worker not in missing for worker in workers)

    @model_validator(mode="wrap")
    @classmethod
    def _every_mistake_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the combinations too where some field is wrong, as far as they don't depend on it."""
        if not isinstance(data, dict):
            return handler(data)
        follows = data.get("tolerated") is None
        if follows:
            data = {**data, "tolerated": data.get("byzantine", 0)}
        mistakes: list[InitErrorDetails] = []
        wrong: set[str] = set()
        try:
            setup = handler(data)
        except ValidationError as error:
            # What only follows `byzantine` is wrong where that is: one mistake, one message.
            found = [one for one in error.errors() if not (follows and one["loc"] == ("tolerated",))]
            mistakes = in_plain_words(found, data, _known_keys)
            wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
            setup = handler({key: value for key, value in data.items() if isinstance(key, str) and key not in wrong})
        for one in setup.combinations():
            if not one.fields & wrong:
                mistakes.append(mistake((one.at,), one.message, _plain(getattr(setup, one.at))))
        if mistakes:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return setup

    def combinations(self) -> Iterator[Combination]:
        """What is wrong with the fields taken together."""

        def wrong(at: str, message: str | None, *fields: str) -> Iterator[Combination]:
            if message is not None:
                yield Combination(at, frozenset((at, *fields)), message)

        if self.dataset.shape is not None and self.dataset.classes is not None:
            yield from self._unfit_model(self.dataset.shape, self.dataset.classes)
        fitting = FITTING_OUTPUTS[self.loss]
        if self.model.output not in fitting:
            needed = " or ".join(fitting)
            message = f"needs a model that returns {needed}, {self.model.label()} returns {self.model.output}"
            yield from wrong("loss", message, "model")
        if self.byzantine >= self.workers:
            message = f"expected fewer than workers = {self.workers}, as one must be honest"
            yield from wrong("byzantine", message, "workers")
            return
        if self.tolerated > self.workers:
            yield from wrong("tolerated", f"expected at most workers = {self.workers}", "workers")
        else:
            reason = _reason(lambda: self.defence.check(self.workers, self.tolerated))
            at = "pre" if self.pre else "aggregator"
            yield from wrong(at, reason, "aggregator", "workers", "tolerated", "byzantine")
        if self.attack is None and self.byzantine:
            yield from wrong("attack", f"expected an attack for the byzantine = {self.byzantine} workers", "byzantine")
        if (attack := self.attack) is not None:
            if not self.byzantine:
                yield from wrong("attack", "expected none, as byzantine = 0", "byzantine")
            else:
                reason = _reason(lambda: attack.check(self.honest, self.byzantine, self.tolerated))
                yield from wrong("attack", reason, "workers", "tolerated", "byzantine")
        if self.momentum.name == "mvr" and self.local_steps > 1:
            yield from wrong("momentum", f"expected local_steps = 1 with mvr, got {self.local_steps}", "local_steps")
        if self.faults is not None:
            yield from self._impossible_faults(self.faults)

    def mistakes_on(self, shape: tuple[int, ...], classes: int) -> list[str]:
        """Why the model cannot be trained on examples of a shape and so many classes; one line a mistake."""
        found = self._unfit_model(shape, classes)
        return [f"{one.at}: got {short(_plain(getattr(self, one.at)))}, {one.message}" for one in found]

    def _unfit_model(self, shape: tuple[int, ...], classes: int) -> Iterator[Combination]:
        reason = _reason(lambda: self.model.check(shape, classes))
        if reason is not None:
            yield Combination("model", frozenset(("model", "dataset")), reason)
        elif self.model.output in FITTING_OUTPUTS[self.loss]:
            found = problem(self.model, shape, classes, self.loss, self.batch_size)
            if found is not None:
                fields = frozenset(("model", "dataset", "loss", "batch_size"))
                yield Combination(found.field, fields, found.message)

    def _impossible_faults(self, faults: Faults) -> Iterator[Combination]:
        """What is wrong with the faults, given the other fields."""

        def wrong(message: str, *fields: str) -> Combination:
            return Combination("faults", frozenset(("faults", *fields)), message)

        if faults.last_step >= self.steps:
            message = f"expected steps below steps = {self.steps}, step {faults.last_step} is never reached"
            yield wrong(message, "steps")
        sizes = ("workers", "byzantine")
        if faults.last_worker >= self.honest:
            message = f"expected honest workers, from 0 to {self.honest - 1}, got worker {faults.last_worker}"
            yield wrong(message, *sizes)
            return
        for missing, step in faults.missing_counts().items():
            if missing == self.honest:
                yield wrong(f"at step {step} none of the {missing} honest submissions comes, expected one", *sizes)
                return
        for field, message in self._unmet_needs(faults).items():
            yield wrong(message, *sizes, "tolerated", "aggregator", field)

    def _unmet_needs(self, faults: Faults) -> dict[str, str]:
        """Why the rule or the attack cannot do with the submissions that come; empty if they can, or never could."""
        attack, f = self.attack, self.tolerated
        # A search asks a rule about what comes, also where zeros are filled in for the rule itself.
        searched = attack is not None and "searched" in attack.model_dump().values() and not self.pre
        rule_checked = (faults.missing == "drop" or searched) and self.defence.check(self.workers, f) is None
        attack_checked = attack is not None and attack.check(self.honest, self.byzantine, f) is None
        found: dict[str, str] = {}
        for missing, step in faults.missing_counts().items():
            n, h = self.workers - missing, self.honest - missing
            if rule_checked and (reason := self.defence.check(n, f)):
                came = f"at step {step} only {n} of {self.workers} submissions come"
                found.setdefault("aggregator", f"{came}: {'' if self.pre else f'{self.aggregator.label()} '}{reason}")
            if attack is not None and attack_checked and (reason := attack.check_missing(h, self.byzantine, f)):
                came = f"at step {step} only {h} of {self.honest} honest submissions come"
                found.setdefault("attack", f"{came}: {attack.label()} {reason}")
        return found

    def describe(self) -> dict[str, Any]:
        """The resolved setup as plain data: every field, every option, as a setup file would hold them.

        `faults`, `divergence`, `pre` and `split` are left out where they say what earlier versions did, so that the
        directories of their runs, which are named after this, stay valid.
        """
        usual = {
            "faults": self.faults is None,
            "divergence": self.divergence == "go-on",
            "pre": not self.pre,
            "split": self.split == Shared(),
        }
        return self.model_dump(exclude={field for field, holds in usual.items() if holds})

    def yaml(self) -> str:
        """The resolved setup as a setup file."""
        return write_yaml(self.describe())

    def digest(self) -> str:
        """Ten hexadecimal digits that stand for the whole resolved setup, its seed included."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:10]

    def label(self) -> str:
        """A short name for figures and actors: ``multi-krum/little seed 1``."""
        return f"{self.contest()} seed {self.seed}"

    def contest(self) -> str:
        """Which defence stands against which attack: ``nnm+multi-krum/little``."""
        return f"{self.defence.label()}/{self.attack.label() if self.attack is not None else 'no attack'}"

    def changed(self, **changes: Any) -> "Setup":
        """This setup with some fields changed, checked anew; where `tolerated` was as large as `byzantine`, it follows.

        Raises:
            pydantic.ValidationError: the result is not valid.
        """
        # The options themselves, as a class of the user's own may be gone from where its name leads: from a notebook.
        known = {field: getattr(self, field) for field in type(self).model_fields}
        if self.tolerated == self.byzantine:
            del known["tolerated"]
        return Setup.model_validate({**known, **changes})


def load_setup(path: str | Path, overrides: dict[str, Any] | None = None) -> Setup:
    """Read a setup file. Classes of the user's own are looked for beside it, too: its folder joins `sys.path`.

    Args:
        path: a YAML file.
        overrides: values by dotted key (``momentum.placement``) that replace those of the file.

    Raises:
        SetupError: the file cannot be read or is not a valid setup; it lists every mistake.
    """
    source = str(path)
    content = read_content(Path(path))
    try:
        for dotted, value in (overrides or {}).items():
            content = overridden(content, dotted, value)
    except ValueError as error:
        raise SetupError(source, [str(error)]) from error
    try:
        return Setup.model_validate(content)
    except ValidationError as error:
        raise SetupError(source, lines(error)) from error


def read_content(path: Path) -> dict[str, Any]:
    """What a setup file holds, not yet checked; its folder joins `sys.path`.

    Raises:
        SetupError: it cannot be read, or holds no mapping.
    """
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise SetupError(str(path), [str(error)]) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SetupError(str(path), [f"got {short(content)}, expected a mapping of fields such as 'dataset: mnist'"])
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return content


def overridden(content: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """The content of a setup file with the value at a dotted key (``momentum.placement``) replaced.

    Raises:
        ValueError: on the way to the key lies something else than a mapping.
    """
    changed = dict(content)
    *parents, last = dotted.split(".")
    if parents[:1] == ["pre"] and len(parents) == 2:
        changed["pre"] = _with_option(changed.get("pre"), parents[1], last, value)
        return changed
    here = changed
    for depth, part in enumerate(parents):
        inner = _in_full(part, here.get(part))
        if not isinstance(inner, dict):
            where = ".".join(parents[: depth + 1])
            raise ValueError(f"{dotted}: cannot be set, {where} is {short(inner)}, not a mapping")
        here[part] = dict(inner)
        here = here[part]
    here[last] = value
    return changed


def _with_option(pre: Any, name: str, option: str, value: Any) -> list[Any]:
    """Pre-aggregators of which those of a name have an option replaced: ``pre.bucketing.size``.

    Raises:
        ValueError: there is none of that name.
    """
    parts = [_in_full("pre", part) for part in _list(pre)]
    meant = [isinstance(part, dict) and part.get("name") == name for part in parts]
    if not any(meant):
        raise ValueError(f"pre.{name}.{option}: cannot be set, pre is {short(pre)}, without {name!r}")
    return [{**part, option: value} if this else part for part, this in zip(parts, meant, strict=True)]


def _in_full(key: str, value: Any) -> Any:
    """The mapping that a short form stands for: `{name: median}` for `aggregator: median`."""
    if value is None or value in ("none", "on", "off") or isinstance(value, bool):
        return {}
    if key == "learning_rate" and isinstance(value, int | float):
        return {"initial": value}
    return {"name": value} if isinstance(value, str) else value


def _known_keys(loc: tuple[int | str, ...], data: dict[str, Any]) -> list[str]:
    """The keys that a setup file may hold at a path, as far as they are easily known."""
    if not loc:
        return list(Setup.model_fields)
    section = str(loc[0])
    if len(loc) == 3 and loc[:2] == ("faults", "events"):
        return list(Event.model_fields)
    if len(loc) == 2 and section == "pre" and isinstance(loc[1], int):
        part = _list(data["pre"])[loc[1]]
        return list(PREAGGREGATORS[part["name"]].model_fields)
    if len(loc) > 1:
        return []
    if section == "faults":
        return list(Faults.model_fields)
    if section in REGISTRIES:
        return list(REGISTRIES[section][data[section]["name"]].model_fields)
    return list(type(Setup.model_fields[section].default).model_fields)


def _reason(check: Callable[[], Any]) -> str | None:
    """What a check returns. That of a user's own class may fail, or say True for "it can"."""
    try:
        reason = check()
    except Exception as error:
        return f"its check fails: {type(error).__name__}: {error}"
    if reason is None or isinstance(reason, str):
        return reason
    return f"expected that its check returns a text or None, got {short(reason)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Faults):
        return value.model_dump()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    describe: Callable[[], dict[str, Any]] | None = getattr(value, "describe", None)
    return describe() if describe is not None else value
