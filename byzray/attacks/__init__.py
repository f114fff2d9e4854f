"""Attacks: what the Byzantine workers submit, in full knowledge of the honest submissions and of the defence."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from byzray.attacks._base import Attack, View
from byzray.attacks._line import LineAttack
from byzray.attacks._search import maximise
from byzray.options import Registry

ATTACKS = Registry("attack", Attack, __name__)

AnyAttack = Annotated[
    Attack, BeforeValidator(ATTACKS.parse), PlainSerializer(lambda attack: attack.describe(), return_type=dict)
]
"""A field that takes what a setup file writes for an attack, holds the attack, and is dumped as plain data again."""

__all__ = ["ATTACKS", "AnyAttack", "Attack", "LineAttack", "View", "maximise"]


def __getattr__(name: str) -> Any:
    return ATTACKS.exported(name)


def __dir__() -> list[str]:
    return [*__all__, *ATTACKS.exports]
