"""Options that a setup file names: aggregators, attacks, models and data sets.

All four work alike. A class derived from :class:`Options` declares its options as pydantic fields; a
:class:`Registry` maps the names that users write to those classes, and turns what stands in a setup file into an
instance: ``median``, ``{name: multi-krum, m: 3}``, or a class of the user's own, ``{name: my_rules:Trimmed, cut: 2}``.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from operator import attrgetter
from types import FunctionType
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

# The classes of the user's own that may be imported; None: any.
_importable: ContextVar[frozenset[str] | None] = ContextVar("importable", default=None)


@contextmanager
def importing_only(names: Iterable[str] = ()) -> Iterator[None]:
    """Import no class of the user's own but these: of a setup that lies among results, which may be anybody's."""
    before = _importable.set(frozenset(names))
    try:
        yield
    finally:
        _importable.reset(before)


class Options(BaseModel):
    """A named, immutable set of options; unknown options and values of the wrong type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str] = ""

    @classmethod
    def reference(cls) -> str:
        """What a setup file writes to name this class: its registered name, or ``module:Class`` for a user's own."""
        # A user's class may inherit the name of a class here.
        return cls.name if cls.is_builtin() else f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def is_builtin(cls) -> bool:
        """Whether this class belongs to byzray, rather than to its user."""
        return cls.__module__.startswith(f"{__package__}.")

    def label(self) -> str:
        """A short name for figures and actors, without the options: ``multi-krum``, ``Trimmed``."""
        return vars(type(self)).get("name") or type(self).__qualname__

    def describe(self) -> dict[str, Any]:
        """The complete options as plain data, as a setup file writes them."""
        return {"name": self.reference(), **self.model_dump(mode="json")}


def own_functions(cls: type[Options]) -> list[FunctionType]:
    """The functions that a class defines itself, or inherits from classes of the user's own: methods, properties and
    validators."""
    found = []
    for base in cls.__mro__:
        if issubclass(base, Options) and not base.is_builtin():
            for value in vars(base).values():
                value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(value, FunctionType) and value.__module__ == base.__module__:
                    found.append(value)
    return found


T = TypeVar("T", bound=Options)


class Registry(Generic[T]):
    """The classes of one kind (aggregators, say) by the names that users write."""

    def __init__(self, kind: str, base: type[T], classes: Iterable[type[T]]) -> None:
        self.kind = kind
        self.base = base
        self.classes: dict[str, type[T]] = {cls.name: cls for cls in classes}

    def __getitem__(self, name: str) -> type[T]:
        """The class called `name`, imported if it reads ``module:Class``.

        Raises:
            ValueError: there is no such class, it cannot or must not be imported or it is of another kind.
        """
        if ":" in name:
            return self._import(name)
        try:
            return self.classes[name]
        except KeyError:
            close = get_close_matches(name, self.classes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(self.classes)}"
            raise ValueError(
                f"there is no {self.kind} {name!r}: {hint} (or a class of your own, 'module:Class')"
            ) from None

    def _import(self, name: str) -> type[T]:
        importable = _importable.get()
        if importable is not None and name not in importable:
            raise ValueError(f"{name!r} is a class of somebody's own, which is not imported here")
        module_name, _, class_name = name.partition(":")
        try:
            found = attrgetter(class_name)(importlib.import_module(module_name))
        except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
            raise ValueError(f"cannot import the {self.kind} {name!r}: {type(error).__name__}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ValueError(f"{name!r} is no {self.kind}: expected a class derived from {self.base.__qualname__}")
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(found.__abstractmethods__))
            raise ValueError(f"{name!r} is abstract: expected a class that implements {lacking}")
        return found

    def parse(self, value: Any) -> T:
        """Build an instance from what a setup file holds: an instance, a name, or a mapping with a name and options.

        Raises:
            ValueError: the value has another form or names nothing.
            pydantic.ValidationError: an option is unknown or has a wrong value.
        """
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected the {self.kind}'s name, or a mapping with its 'name' and options")
        options = {key: option for key, option in value.items() if key != "name"}
        return self[value["name"]].model_validate(options)
