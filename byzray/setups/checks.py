"""Checks of several fields of a setup together."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel

from byzray.faults import Faults
from byzray.mistakes import short, with_label, with_value
from byzray.models import Output
from byzray.models._trial import problem
from byzray.options import Options

if TYPE_CHECKING:
    from byzray.setups.fields import Setup

Loss = Literal["nll", "cross-entropy", "bce", "mse"]

# The outputs that each loss accepts.
FITTING_OUTPUTS: dict[Loss, tuple[Output, ...]] = {
    "nll": ("log-probabilities",),
    "cross-entropy": ("scores", "log-probabilities"),
    "bce": ("probabilities",),
    "mse": ("probabilities", "scores"),
}


class Combination(NamedTuple):
    """A mistake in several fields together, each of which is valid alone.

    Attributes:
        at: the field that the message is reported at.
        fields: all fields that it depends on.
        message: what is wrong, with the values.
    """

    at: str
    fields: frozenset[str]
    message: str


def combinations(setup: "Setup") -> Iterator[Combination]:
    """The mistakes in several fields together."""

    def wrong(at: str, message: str, *fields: str) -> Iterator[Combination]:
        yield Combination(at, frozenset((at, *fields)), with_value(plain(getattr(setup, at)), message))

    def unmet(at: str, reason: str | None, *fields: str) -> Iterator[Combination]:
        if reason is not None:
            yield Combination(at, frozenset((at, *fields)), reason)

    if setup.dataset.shape is not None and setup.dataset.classes is not None:
        yield from _unfit_model(setup, setup.dataset.shape, setup.dataset.classes)
    fitting = FITTING_OUTPUTS[setup.loss]
    if setup.model.output not in fitting:
        needed = " or ".join(fitting)
        message = f"expected a model that returns {needed}; {setup.model.label()} returns {setup.model.output}"
        yield from wrong("loss", message, "model")
    if setup.byzantine >= setup.workers:
        message = f"expected fewer than workers = {setup.workers}: at least one must be honest"
        yield from wrong("byzantine", message, "workers")
        return
    if setup.tolerated > setup.workers:
        yield from wrong("tolerated", f"expected at most workers = {setup.workers}", "workers")
    else:
        reason = _reason(lambda: setup.defence.check(setup.workers, setup.tolerated), setup.defence.label())
        at = "pre" if setup.pre else "aggregator"
        yield from unmet(at, reason, "aggregator", "workers", "tolerated", "byzantine")
    if setup.attack is None and setup.byzantine:
        yield from wrong("attack", f"expected an attack for the byzantine = {setup.byzantine} workers", "byzantine")
    if (attack := setup.attack) is not None:
        if not setup.byzantine:
            yield from wrong("attack", "expected none, as byzantine = 0", "byzantine")
        else:
            numbers = (setup.honest, setup.byzantine, setup.tolerated)
            reason = _reason(lambda: with_label(attack.label(), attack.check(*numbers)), attack.label())
            yield from unmet("attack", reason, "workers", "tolerated", "byzantine")
    if setup.momentum.name == "mvr" and setup.local_steps > 1:
        yield from wrong("momentum", f"expected local_steps = 1 with mvr, got {setup.local_steps}", "local_steps")
    if setup.faults is not None:
        yield from _impossible_faults(setup, setup.faults)


def mistakes_on(setup: "Setup", shape: tuple[int, ...], classes: int) -> list[str]:
    """Why the model cannot be trained on examples of this shape with so many classes, one line per mistake."""
    return [f"{one.at}: {one.message}" for one in _unfit_model(setup, shape, classes)]


def _unfit_model(setup: "Setup", shape: tuple[int, ...], classes: int) -> Iterator[Combination]:
    model = setup.model
    reason = _reason(lambda: with_label(model.label(), model.check(shape, classes)), model.label())
    if reason is not None:
        yield Combination("model", frozenset(("model", "dataset")), reason)
    elif model.output in FITTING_OUTPUTS[setup.loss]:
        found = problem(model, shape, classes, setup.loss, setup.batch_size)
        if found is not None:
            fields = frozenset(("model", "dataset", "loss", "batch_size"))
            message = with_value(plain(getattr(setup, found.field)), found.message)
            yield Combination(found.field, fields, message)


def _impossible_faults(setup: "Setup", faults: Faults) -> Iterator[Combination]:
    """Faults that cannot occur, or that leave too few submissions."""

    def wrong(message: str, *fields: str) -> Combination:
        return Combination("faults", frozenset(("faults", *fields)), message)

    if faults.last_step >= setup.steps:
        message = f"expected steps below steps = {setup.steps}; step {faults.last_step} is never reached"
        yield wrong(message, "steps")
    sizes = ("workers", "byzantine")
    if faults.last_worker >= setup.honest:
        message = f"expected honest workers, from 0 to {setup.honest - 1}; got worker {faults.last_worker}"
        yield wrong(message, *sizes)
        return
    for missing, step in faults.missing_counts().items():
        if missing == setup.honest:
            yield wrong(f"expected at least one honest submission at every step; step {step} has none", *sizes)
            return
    for field, message in _unmet_needs(setup, faults).items():
        yield wrong(message, *sizes, "tolerated", "aggregator", field)


def _unmet_needs(setup: "Setup", faults: Faults) -> dict[str, str]:
    """Why the rule or the attack cannot work with the submissions that arrive; empty if they can, or if even all
    submissions were too few."""
    attack, f = setup.attack, setup.tolerated
    # A search evaluates the rule on what arrives, even where the rule itself sees zeros for what is missing.
    searched = attack is not None and "searched" in attack.model_dump().values() and not setup.pre
    rule_checked = (faults.missing == "drop" or searched) and setup.defence.check(setup.workers, f) is None
    attack_checked = attack is not None and attack.check(setup.honest, setup.byzantine, f) is None
    found: dict[str, str] = {}
    for missing, step in faults.missing_counts().items():
        n, h = setup.workers - missing, setup.honest - missing
        if rule_checked and (reason := setup.defence.check(n, f)):
            arriving = f"at step {step} only {n} of {setup.workers} submissions arrive"
            found.setdefault("aggregator", f"{arriving}: {reason}")
        if attack is not None and attack_checked and (reason := attack.check_missing(h, setup.byzantine, f)):
            arriving = f"at step {step} only {h} of {setup.honest} honest submissions arrive"
            found.setdefault("attack", f"{arriving}: {with_label(attack.label(), reason)}")
    return found


def _reason(check: Callable[[], Any], label: str) -> str | None:
    """What a check returns. The check of a user's own class may raise, or return something else, such as True."""
    try:
        reason = check()
    except Exception as error:
        return f"{label}: its check fails: {type(error).__name__}: {error}"
    if reason is None or isinstance(reason, str):
        return reason
    return f"{label}: expected that its check returns a text or None, got {short(reason)}"


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, Options):
        return value.describe()
    return value.model_dump() if isinstance(value, BaseModel) else value
