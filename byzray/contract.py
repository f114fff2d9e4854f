"""What is asked of rules and attacks, watched while a run calls them.

They return what they should and leave the submissions as they are; else the run ends with the name of the class. They
compute from what they are given alone, or a run that is continued is not the one that was interrupted: a class of the
user's own that draws from a global random state, or remembers something, is warned of once.

Shapes in names: N submissions, H honest ones, F Byzantine ones, D parameters.
"""

import pickle
import random
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

from byzray.aggregators import Aggregate, Aggregator
from byzray.aggregators.base import check_aggregate
from byzray.attacks import Attack
from byzray.mistakes import BrokenContract, Failure
from byzray.options import Options, own_functions
from byzray.process_state import RandomStates

# An own class is looked at more closely at its first calls, as that costs time and memory: whether it changes what it
# must not in a way that PyTorch does not notice (through numpy), and whether it remembers something.
CLOSE_LOOKS = 3
LARGEST_COPY = 2**24  # values, 64 MB

# What can be remembered between calls.
MEMORIES = (
    *(bool, int, float, complex, str, bytes, list, dict, set, tuple, deque),
    *(Tensor, np.ndarray, np.generic, torch.Generator, np.random.Generator, np.random.RandomState, random.Random),
)


class Contract:
    """Calls the rules and attacks of one run, on a device."""

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

    def attack(self, attack: Attack, honest_HD: Tensor, byzantine: int, rule: Aggregator, f: int) -> Tensor:
        """The Byzantine submissions (F, D).

        Raises:
            BrokenContract: the attack broke it.
        """
        name, expected = f"attack {attack.label()}", (byzantine, honest_HD.shape[1])
        with self._watched(honest_HD, _suspects(attack, rule), attack, rule):
            attack_FD = attack(honest_HD, byzantine, rule, f)
        if not isinstance(attack_FD, Tensor):
            found = type(attack_FD).__name__
            raise BrokenContract(f"{name} returned {found}, expected a tensor of shape {expected}")
        if attack_FD.shape != expected:
            raise BrokenContract(f"{name} returned shape {tuple(attack_FD.shape)}, expected {expected}")
        return self._plain(attack_FD, name)

    def aggregate(self, rule: Aggregator, submissions_ND: Tensor, f: int) -> Aggregate:
        """What the rule makes of the submissions.

        Raises:
            BrokenContract: the rule broke it.
        """
        name = f"aggregator {rule.label()}"
        with self._watched(submissions_ND, name, rule):
            aggregate = rule.aggregate(submissions_ND, f)
        check_aggregate(rule, aggregate, submissions_ND)
        vector_D = self._plain(aggregate.vector_D, name)
        return aggregate if vector_D is aggregate.vector_D else aggregate._replace(vector_D=vector_D)

    def _plain(self, found: Tensor, name: str) -> Tensor:
        """Numbers on the device that do not remember how they were computed."""
        if found.is_complex() or found.dtype == torch.bool:
            raise BrokenContract(f"{name} returned {found.dtype}, expected torch.float32")
        if found.device.type != self.device.type:
            raise BrokenContract(f"{name} returned a tensor on {found.device}, expected one on {self.device}")
        # Else theta would drag along how it was computed, step after step.
        return found.detach() if found.requires_grad else found

    @contextmanager
    def _watched(self, given: Tensor, name: str, *called: Options) -> Iterator[None]:
        own = [option for option in called if not option.is_builtin()]
        version = given._version
        look = bool(own) and self._looks[type(called[0])] < CLOSE_LOOKS
        copy = given.clone() if look and given.numel() <= LARGEST_COPY else None
        states = RandomStates.now(self.device) if own and name not in self._warned else None
        try:
            yield
        except Failure:  # it names its class
            raise
        except Exception as error:
            error.add_note(f"raised by {name}")
            raise
        # The bits are compared, as NaN is not equal to itself.
        if given._version != version or not (copy is None or torch.equal(_bits(copy), _bits(given))):
            raise BrokenContract(
                f"{name} changed the submissions it was given in place, expected that it leaves them as they are: "
                "let it work on a copy, such as gradients_ND.clone()"
            )
        if states is not None and (moved := states.moved(RandomStates.now(self.device))):
            self._warn(name, f"draws from the global random state of {' and '.join(moved)}")
        if look:
            self._looks[type(called[0])] += 1
            if called[0] in own:
                self._look_at_memory(called[0])

    def _look_at_memory(self, option: Options) -> None:
        """Warn if what outlasts a call is another after this one than after that before; at the first one it may
        prepare what it needs."""
        name = f"{'attack' if isinstance(option, Attack) else 'aggregator'} {option.label()}"
        now, before = _memory(option), self._memories.get(name)
        self._memories[name] = now
        if before is not None and (changed := [one for one, value in now.items() if before.get(one) != value]):
            self._warn(name, f"remembers something from one call to the next ({', '.join(changed)})")

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._warnings.append(
                f"{name} {what}, which byzray neither seeds nor saves: a run that is continued gives other results "
                "than one that was not interrupted. Compute from the arguments of the call alone; for random numbers "
                "make and seed a generator at every call"
            )


def _suspects(attack: Attack, rule: Aggregator) -> str:
    """Who may have done what is found after a call of an attack, which may ask the rule."""
    if rule.is_builtin():
        return f"attack {attack.label()}"
    aggregator = f"aggregator {rule.label()}"
    return aggregator if attack.is_builtin() else f"attack {attack.label()} (or {aggregator}, if it asks that)"


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
