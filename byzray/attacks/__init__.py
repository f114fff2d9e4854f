"""Attacks: what the Byzantine workers submit, in full knowledge of the honest submissions and of the rule."""

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from byzray.attacks.anti_cge import AntiCge
from byzray.attacks.base import Attack
from byzray.attacks.line import Empire, EmpireStrict, Hidden, LineAttack, Little
from byzray.attacks.nan import Nan
from byzray.attacks.search import maximise
from byzray.options import ListedRegistry

ATTACKS: ListedRegistry[Attack] = ListedRegistry(
    "attack",
    Attack,  # type: ignore[type-abstract]
    [Little, Empire, EmpireStrict, Hidden, AntiCge, Nan],
)

AnyAttack = Annotated[
    Attack, BeforeValidator(ATTACKS.parse), PlainSerializer(lambda attack: attack.describe(), return_type=dict)
]
"""A field that takes what a setup file writes for an attack, holds the attack, and is dumped as plain data again."""

__all__ = [
    "ATTACKS",
    "AntiCge",
    "AnyAttack",
    "Attack",
    "Empire",
    "EmpireStrict",
    "Hidden",
    "LineAttack",
    "Little",
    "Nan",
    "maximise",
]
