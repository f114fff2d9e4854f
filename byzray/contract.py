"""Requirements on defences and attacks, checked while a run calls them.

They return what they should and leave the submissions as they are; else the run ends with the name of the class. They
compute from what they are given alone, or a run that is continued is not the one that was interrupted: a class of the
user's own that draws from a global random state, or remembers something other than its state, is warned of once.

Shapes in names: N submissions, H honest ones, F Byzantine ones, D parameters.
"""

import pickle
import random
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

from byzray.aggregators import Aggregate
from byzray.attacks import Attack, View
from byzray.defence import Defence
from byzray.mistakes import BrokenContract, Failure, short
from byzray.options import Options, own_functions
from byzray.preaggregators import PreAggregator
from byzray.process_state import RandomStates
from byzray.sampling import Batch
from byzray.state import State, apart, expect_like
from byzray.step import Step
from byzray.submissions import Matrix, Mixed, OnLine, Submissions

# An own class is checked more closely at its first calls, as that costs time and memory: whether it changes what it
# must not in a way that PyTorch does not notice (through numpy), and whether it remembers something.
CLOSE_LOOKS = 3
LARGEST_COPY = 2**24  # values, 64 MB

# What can be remembered between calls.
MEMORIES = (
    *(bool, int, float, complex, str, bytes, list, dict, set, tuple, deque),
    *(Tensor, np.ndarray, np.generic, torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
)


class Contract:
    """Calls the defence and the attack of one run, on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._warnings: list[str] = []
        self._warned: set[str] = set()
        self._looks: Counter[type[Options]] = Counter()
        self._memories: dict[str, dict[str, bytes]] = {}

    def take_warnings(self) -> list[str]:
        """Warnings for the user, since the last call."""
        taken, self._warnings = self._warnings, []
        return taken

    def start_defence(self, defence: Defence, step: Step, like_D: Tensor) -> State:
        """The state of a defence before the first step.

        Raises:
            BrokenContract: the rule broke it.
        """
        with self._watched([like_D], *_own(defence), starts=True):
            return self._state(defence.initial_state(step, like_D), f"aggregator {defence.rule.label()}")

    def start_attack(self, attack: Attack, step: Step, like_D: Tensor) -> State:
        """The state of an attack before the first step.

        Raises:
            BrokenContract: the attack broke it.
        """
        with self._watched([like_D], f"attack {attack.label()}", attack, starts=True):
            return self._state(attack.initial_state(step.of(attack), like_D), f"attack {attack.label()}")

    def attack(self, attack: Attack, honest_HD: Tensor, view: View, state: State) -> tuple[Tensor, State]:
        """The Byzantine submissions (F, D), and the state after the step.

        Raises:
            BrokenContract: the attack broke it.
        """
        name, expected = f"attack {attack.label()}", (view.byzantine, honest_HD.shape[1])
        known = () if view.honest is None else (view.honest.mean_D, view.honest.squares_D)
        watched = [one for one in (honest_HD, view.own_FD, view.step.theta_D, *known) if one is not None]
        with self._watched(watched, *_suspects(attack, view), states=(state, view.defence.state)):
            returned = attack.step(honest_HD, view, state)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            found = type(returned).__name__
            raise BrokenContract(f"{name} returned {found} from step, expected submissions and a state")
        attack_FD, after = returned
        if not isinstance(attack_FD, Tensor):
            found = type(attack_FD).__name__
            raise BrokenContract(f"{name} returned {found}, expected a tensor of shape {expected}")
        if attack_FD.shape != expected:
            raise BrokenContract(f"{name} returned shape {tuple(attack_FD.shape)}, expected {expected}")
        return apart(self._plain(attack_FD, name), state), self._state(after, name, state)

    def aggregate(
        self, defence: Defence, submissions: Submissions, step: Step, state: State
    ) -> tuple[Aggregate, State]:
        """What the defence makes of the submissions, and the state after the step.

        Raises:
            BrokenContract: the rule or a pre-aggregator broke it.
        """
        name = f"aggregator {defence.rule.label()}"
        name_of_own, *parts = _own(defence)
        given_ND = submissions.distinct_UD if parts[0].is_builtin() else submissions.rows_ND
        watched = [one for one in (given_ND, step.theta_D) if one is not None]
        with self._watched(watched, name_of_own, *parts, states=(state,)):
            aggregate, after = defence.step(submissions, step, state)
            aggregate.vector_D = apart(self._plain(aggregate.vector_D, name), state)
        return aggregate, self._state(after, name, state)

    def _state(self, found: object, name: str, known: State | None = None) -> State:
        """The state that a class returned: tensors by name, the same as those before."""
        if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise BrokenContract(f"{name} returned {short(found)} as its state, expected tensors by their names")
        if known is None:
            return {key: self._here(tensor, name).detach().clone() for key, tensor in found.items()}
        if found.keys() != known.keys():
            expected = ", ".join(known) or "none"
            raise BrokenContract(f"{name} returned a state of {', '.join(found) or 'nothing'}, expected {expected}")
        try:
            expect_like(found, known)
        except ValueError as error:
            raise BrokenContract(f"{name} returned a state that changes its form: {error}") from error
        return {key: tensor if tensor is known[key] else apart(tensor.detach(), known) for key, tensor in found.items()}

    def _plain(self, found: Tensor, name: str) -> Tensor:
        """Numbers on the device that do not remember how they were computed."""
        if found.is_complex() or found.dtype == torch.bool:
            raise BrokenContract(f"{name} returned {found.dtype}, expected torch.float32")
        # Else theta would drag along how it was computed, step after step.
        return self._here(found, name).detach() if found.requires_grad else self._here(found, name)

    def _here(self, found: Tensor, name: str) -> Tensor:
        if found.device.type != self.device.type:
            raise BrokenContract(f"{name} returned a tensor on {found.device}, expected one on {self.device}")
        return found

    @contextmanager
    def _watched(
        self, given: Sequence[Tensor], name: str, *called: Options, states: Sequence[State] = (), starts: bool = False
    ) -> Iterator[None]:
        """Watch what is called with some tensors: the class that `name` stands for, and others that it may ask.

        What remembers is looked for from step to step: at the start, and at the first step, a class may prepare."""
        own = [option for option in called if not option.is_builtin()]
        before = [one._version for one in given]
        look = bool(own) and not starts and self._looks[type(called[0])] < CLOSE_LOOKS
        copies = [(one, one.clone()) for one in given if look and one.numel() <= LARGEST_COPY]
        drawn = RandomStates.now(self.device) if own and name not in self._warned else None
        versions = _versions(states)
        try:
            yield
        except Failure:  # it names its class
            raise
        except Exception as error:
            if own and (hint := _old_form(error)):
                raise BrokenContract(f"{name} is written for byzray 0.1: {hint}; see docs/porting.md") from error
            error.add_note(f"raised by {name}")
            raise
        if _versions(states) != versions:
            raise BrokenContract(
                f"{name} changed the state it was given in place, expected that it returns another: what is tried "
                "there by a searched attack would stay"
            )
        # The bits are compared, as NaN is not equal to itself.
        same = all(torch.equal(_bits(copy), _bits(one)) for one, copy in copies)
        if [one._version for one in given] != before or not same:
            raise BrokenContract(
                f"{name} changed the submissions it was given in place, expected that it leaves them as they are: "
                "let it work on a copy, such as submissions.rows_ND.clone()"
            )
        if drawn is not None and (moved := drawn.moved(RandomStates.now(self.device))):
            self._warn(name, f"draws from the global random state of {' and '.join(moved)}")
        if look:
            self._looks[type(called[0])] += 1
            if called[0] in own:
                self._check_memory(called[0], name)

    def _check_memory(self, option: Options, name: str) -> None:
        """Warn if what outlasts a call is another after this one than after that before; at the first one it may
        prepare what it needs."""
        now, before = _memory(option), self._memories.get(name)
        self._memories[name] = now
        if before is not None and (changed := [one for one, value in now.items() if before.get(one) != value]):
            self._warn(name, f"remembers something from one call to the next ({', '.join(changed)})")

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._warnings.append(
                f"{name} {what}, which byzray neither seeds nor saves: a run that is continued gives other results "
                "than one that was not interrupted. Draw from step.generator (view.step.generator in an attack), and "
                "return what the next step needs as the state: see docs/extending.md"
            )


def poisoned(attack: Attack, batch: Batch, classes: int, worker: int, step: int, drawn: np.random.Generator) -> Batch:
    """What an attack makes of the batch of a worker that trains.

    Raises:
        BrokenContract: it is no batch of as many examples, or the one given was changed.
    """
    name = f"attack {attack.label()}"
    versions = [part._version for part in batch]
    try:
        found = attack.poison(batch, classes, worker, step, drawn)
    except Exception as error:
        error.add_note(f"raised by {name}")
        raise
    if [part._version for part in batch] != versions:
        raise BrokenContract(f"{name} changed the batch it was given in place, expected that poison returns another")
    alike = isinstance(found, Batch) and all(
        isinstance(one, Tensor) and one.shape == given.shape and one.dtype == given.dtype
        for one, given in zip(found, batch, strict=True)
    )
    if not alike:
        x, y = (f"{tuple(part.shape)} {part.dtype}" for part in batch)
        raise BrokenContract(f"{name} returned {_formed(found)} from poison, expected a Batch of x {x} and y {y}")
    return found


def _formed(found: object) -> str:
    if not isinstance(found, Batch) or not all(isinstance(part, Tensor) for part in found):
        return type(found).__name__
    return " and ".join(f"{tuple(part.shape)} {part.dtype}" for part in found)


def _own(defence: Defence) -> tuple[str, Options, *tuple[Options, ...]]:
    """The name to give in messages about a defence, and its parts: first the rule, or the user's own part."""
    parts = sorted(defence.parts, key=lambda part: (part.is_builtin(), isinstance(part, PreAggregator)))
    kind = "pre-aggregator" if isinstance(parts[0], PreAggregator) else "aggregator"
    return f"{kind} {parts[0].label()}", parts[0], *parts[1:]


def _suspects(attack: Attack, view: View) -> tuple[str, Options, *tuple[Options, ...]]:
    """Who may have done what is found after a call of an attack, which may ask the defence."""
    name, *parts = _own(view.defence.defence)
    if parts[0].is_builtin():
        return f"attack {attack.label()}", attack, *parts
    both = f"attack {attack.label()} (or {name}, if it asks that)"
    return name if attack.is_builtin() else both, attack, *parts


def _versions(states: Sequence[State]) -> list[int]:
    """How often the tensors of some states were changed in place."""
    return [tensor._version for state in states for tensor in state.values()]


def _old_form(error: Exception) -> str | None:
    """What to change if an error looks like that of a class for byzray 0.1; none if it does not."""
    rule = "a rule is given Submissions, whose matrix is submissions.rows_ND, and returns a tensor"
    text = str(error)
    if isinstance(error, AttributeError):
        taken_for_matrix = isinstance(error.obj, Submissions) and hasattr(Tensor, error.name or "")
        return rule if taken_for_matrix or error.name == "vector_D" else None
    if isinstance(error, TypeError):
        if any(form.__name__ in text for form in (Matrix, OnLine, Mixed)):
            return rule
        if "__call__() missing 2 required positional arguments" in text:
            return "an attack is called with (honest_HD, view), which has byzantine, defence and step.f"
    return None


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int32) if values.dtype == torch.float32 else values


def _memory(option: Options) -> dict[str, bytes]:
    """What of an option outlasts a call, pickled, by name: attributes other than its fields, those of its class,
    and the global variables that its code mentions. Without what cannot be pickled."""
    cls = type(option)
    others = {name: value for name, value in vars(option).items() if name not in cls.model_fields}
    found = {**vars(cls), **others, **(option.__pydantic_private__ or {})}
    around = vars(sys.modules.get(cls.__module__, object))
    mentioned = {name for function in own_functions(cls) for name in function.__code__.co_names}
    found |= {name: around[name] for name in mentioned if name in around}
    pickled = {}
    for name, value in found.items():
        if isinstance(value, MEMORIES) and not name.startswith("__"):
            with suppress(Exception):
                pickled[name] = pickle.dumps(value)
    return pickled
