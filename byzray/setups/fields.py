"""Setup: the full description of one simulation, as a setup file holds it."""

import hashlib
import json
from functools import cached_property
from html import escape
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationError,
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
from byzray.mistakes import in_plain_words, mistake
from byzray.models import MODELS, Model
from byzray.models.mlp import MLP
from byzray.options import Options, Registry
from byzray.preaggregators import PREAGGREGATORS, AnyPreAggregator
from byzray.setups._section import LARGEST_FLOAT, Section
from byzray.setups.checks import Loss, combinations, plain
from byzray.setups.learning_rate import LearningRate
from byzray.setups.sections import Actors, Momentum, Study
from byzray.splits import SPLITS, AnySplit, Sharded
from byzray.splits.shared import Shared
from byzray.yaml import write_yaml

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


def _rate(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"initial": value}
    if not isinstance(value, dict | LearningRate):
        raise ValueError("expected a number, or a mapping with 'initial' or 'schedule'")
    return value


def _study(value: Any) -> Any:
    # 1 == True, but `study: 1` may well be meant as `{past: 1}`.
    if value is True or value == "on":
        return {}
    if value is False or value == "off":
        return None
    if not isinstance(value, dict | Study | None):
        raise ValueError("expected on, off, or a mapping with 'past' or 'kappa'")
    return value


def listed(value: Any) -> Any:
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
        learning_rate: a number, or a mapping: how the rate falls, see :class:`LearningRate`.
        momentum: see :class:`Momentum`.
        l1: the factor of ||theta||_1 in the loss.
        l2: the factor of ||theta||_2 (the norm, not its square) in the loss.
        weight_decay: lambda: the server adds lambda theta to what it moves the parameters by.
        clip: the largest norm of a gradient; longer ones are scaled down to it.
        split: which training examples are whose; by default all workers draw from one stream.
        workers: n, honest and Byzantine together.
        byzantine: how many of them attack.
        tolerated: f, how many Byzantine workers the aggregator tolerates; by default as many as there are.
        pre: pre-aggregators, in the order in which they are applied before the rule.
        aggregator: the rule, or a random mixture of rules.
        attack: what the adversary does, or none.
        evaluation_interval: the accuracy is measured every so many steps and at the end; 0: at the end alone.
        study: whether the 24 metrics are computed at every step (`on`, `off`, or a mapping, see :class:`Study`).
        actors: the layout on Ray actors; none: in this process.
        device: where tensors live; auto: on a GPU where there is one.
        seed: the seed of all randomness.
        local_steps: SGD steps a worker takes by itself before it submits the sum of their gradients.
        faults: which honest workers fail, and when, see :class:`byzray.faults.Faults`; or none.
        divergence: what happens when the parameters are not finite: the run continues to its end, or stops.
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
    weight_decay: NonNegativeFloat = Field(default=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)
    clip: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    split: AnySplit = Shared()
    workers: PositiveInt = 11
    byzantine: NonNegativeInt = 0
    tolerated: NonNegativeInt = 0
    pre: Annotated[list[AnyPreAggregator], BeforeValidator(listed)] = Field(default=[])
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
        """The workers that train: the honest ones first, then the Byzantine ones if the attack has them train."""
        return range(self.workers if self.attack is not None and self.attack.trains else self.honest)

    def options(self) -> dict[str, list[Options]]:
        """All options of this setup by field, built-in classes and the user's own."""
        found: dict[str, list[Options]] = {field: [] for field in REGISTRIES}
        for field, options in found.items():
            value = getattr(self, field)
            options += value if isinstance(value, list) else [] if value is None else [value, *value.parts()]
        return found

    @cached_property
    def defence(self) -> Defence:
        """The pre-aggregators and the rule."""
        return Defence(self.pre, self.aggregator)

    def rate_at(self, step: int) -> float:
        """The learning rate eta_t at a step."""
        return self.learning_rate.at(step, self.steps)

    @property
    def measures_kappa(self) -> bool:
        """Whether the study measures the robustness coefficient of every step."""
        if self.study is None:
            return False
        return isinstance(self.split, Sharded) if self.study.kappa is None else self.study.kappa

    @property
    def workers_report_moments(self) -> bool:
        """Whether workers report moments of their gradients before momentum, which the study needs."""
        return self.study is not None and self.momentum.placement == "worker"

    def missing_at(self, step: int) -> tuple[int, ...]:
        """The honest workers whose submissions are missing at a step, in order."""
        return () if self.faults is None else self.faults.missing_at(step)

    def present(self, workers: range, step: int) -> int:
        """The number of honest ones among some workers whose submissions are aggregated at a step."""
        missing = self.missing_at(step)
        return sum(worker < self.honest and worker not in missing for worker in workers)

    @model_validator(mode="wrap")
    @classmethod
    def _every_mistake_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report all mistakes together: also check combinations of fields that do not depend on a wrong field."""
        if not isinstance(data, dict):
            return handler(data)
        follows = data.get("tolerated") is None  # then it equals `byzantine`
        if follows:
            data = {**data, "tolerated": data.get("byzantine", 0)}
        mistakes: list[InitErrorDetails] = []
        wrong: set[str] = set()
        try:
            setup = handler(data)
        except ValidationError as error:
            # A `tolerated` that was copied from `byzantine` repeats its mistake: report it once.
            found = [one for one in error.errors() if not (follows and one["loc"] == ("tolerated",))]
            mistakes = in_plain_words(found, data, _known_keys)
            wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
            setup = handler({key: value for key, value in data.items() if isinstance(key, str) and key not in wrong})
        for one in combinations(setup):
            if not one.fields & wrong:
                mistakes.append(mistake((one.at,), one.message, plain(getattr(setup, one.at))))
        if mistakes:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return setup

    def describe(self) -> dict[str, Any]:
        """The resolved setup as plain data: every field, every option, as a setup file would hold them.

        `faults`, `divergence`, `pre`, `split` and `weight_decay` are omitted at their defaults: run directories are
        named after a hash of this description, and those of earlier versions stay valid.
        """
        usual = {
            "faults": self.faults is None,
            "divergence": self.divergence == "go-on",
            "pre": not self.pre,
            "split": self.split == Shared(),
            "weight_decay": not self.weight_decay,
        }
        described = self.model_dump(exclude={field for field, holds in usual.items() if holds})
        if self.study is not None and self.study.kappa == isinstance(self.split, Sharded):
            del described["study"]["kappa"]  # what holds without
        return described

    def yaml(self) -> str:
        """The resolved setup as a setup file."""
        return write_yaml(self.describe())

    def digest(self) -> str:
        """Ten hexadecimal digits of a hash of the whole resolved setup, including its seed."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:10]

    def label(self) -> str:
        """A short name for figures and actors: ``multi-krum/little seed 1``."""
        return f"{self.matchup()} seed {self.seed}"

    def __repr__(self) -> str:
        words = [self.dataset.label(), self.model.label(), self.label(), f"n = {self.workers}, f = {self.byzantine}"]
        return f"<Setup {', '.join(words)}, momentum at {self.momentum.placement}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.yaml())}</pre>"

    def matchup(self) -> str:
        """The labels of defence and attack: ``nnm+multi-krum/little``."""
        return f"{self.defence.label()}/{self.attack.label() if self.attack is not None else 'no attack'}"

    def changed(self, **changes: Any) -> "Setup":
        """This setup with some fields changed, checked again; if `tolerated` equals `byzantine`, it changes with it.

        Raises:
            pydantic.ValidationError: the result is not valid.
        """
        # The objects, not their names: a user's own class may no longer be importable by its name, as in a notebook.
        known = {field: getattr(self, field) for field in type(self).model_fields}
        if self.tolerated == self.byzantine:
            del known["tolerated"]
        return Setup.model_validate({**known, **changes})


def _known_keys(loc: tuple[int | str, ...], data: dict[str, Any]) -> list[str]:
    """The keys that a setup file may have at a path, where they are known."""
    if not loc:
        return list(Setup.model_fields)
    section = str(loc[0])
    if len(loc) == 3 and loc[:2] == ("faults", "events"):
        return list(Event.model_fields)
    if len(loc) == 2 and section == "pre" and isinstance(loc[1], int):
        part = listed(data["pre"])[loc[1]]
        return list(PREAGGREGATORS[part["name"]].model_fields)
    if len(loc) > 1:
        return []
    if section == "faults":
        return list(Faults.model_fields)
    if section in REGISTRIES:
        return list(REGISTRIES[section][data[section]["name"]].model_fields)
    return list(type(Setup.model_fields[section].default).model_fields)
