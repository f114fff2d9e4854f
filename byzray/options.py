"""Options that a setup file names: rules, pre-aggregators, attacks, models, data sets and splits.

All of them work alike. A class derived from :class:`Options` declares its options as pydantic fields and stands in a
file of its own, whose name is the one that users write. A :class:`Registry` finds it there, and turns what stands in a
setup file into an instance: ``median``, ``{name: multi-krum, m: 3}``, or a class of the user's own,
``{name: my_rules:Trimmed, cut: 2}``.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cached_property
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
    """A named, immutable set of options; unknown options and values of the wrong type are refused.

    Attributes:
        name: of a class of byzray: that of its file, as setups write it. A user's own may set one, as its label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        file = cls.__module__.rpartition(".")[2]
        if cls.is_builtin() and not file.startswith("_") and "name" not in vars(cls):
            cls.name = file.replace("_", "-")

    @classmethod
    def written(cls) -> str:
        """What a setup file writes to name this class: its name, or ``module:Class`` for a user's own."""
        # A user's class may inherit the name of a class here.
        return cls.name if cls.is_builtin() else f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def is_builtin(cls) -> bool:
        """Whether this class belongs to byzray, rather than to its user."""
        return cls.__module__.startswith(f"{__package__}.")

    def parts(self) -> list["Options"]:
        """Other options among its own, such as the rules of a mixture."""
        return []

    @classmethod
    def outdated(cls) -> str | None:
        """What a class of the user's own implements that an earlier version called; none if nothing."""
        return None

    @classmethod
    def lacking(cls) -> list[str]:
        """The methods that a class has yet to implement."""
        return sorted(getattr(cls, "__abstractmethods__", ()))

    def label(self) -> str:
        """A short name for figures and actors, without the options: ``multi-krum``, ``Trimmed``."""
        return vars(type(self)).get("name") or type(self).__qualname__

    def describe(self) -> dict[str, Any]:
        """The complete options as plain data, as a setup file writes them."""
        return {"name": self.written(), **self.model_dump(mode="json")}


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
    """The classes of one kind (models, say), found in the files of a package by the names that users write.

    ``wide-resnet`` is the one class in the package's file ``wide_resnet.py``. Files that begin with an underscore hold
    what several of them share, and classes that do are parts of the one class. So a new file is all that a new class
    takes.

    Attributes:
        kind: what such a class is, in messages.
        base: what all of them derive from.
        package: the name of the package.
    """

    def __init__(self, kind: str, base: type[T], package: str) -> None:
        self.kind = kind
        self.base = base
        self.package = package

    @cached_property
    def names(self) -> list[str]:
        """All names, sorted. No file is imported."""
        files = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        return sorted(file.name.replace("_", "-") for file in files if not file.name.startswith("_"))

    @cached_property
    def classes(self) -> dict[str, type[T]]:
        """All classes by name, sorted. Every file is imported."""
        return {name: self._find(name) for name in self.names}

    @property
    def exports(self) -> list[str]:
        """What :meth:`exported` finds, for the `__dir__` of the package."""
        return [cls.__name__ for cls in self.classes.values()]

    def exported(self, name: str) -> type[T]:
        """The class that is called so in Python, for the `__getattr__` of the package: a new file adds to what can be
        imported from it.

        Raises:
            AttributeError: there is none.
        """
        if not name.startswith("_"):  # Python itself reads such names, also while the package is imported
            for cls in self.classes.values():
                if cls.__name__ == name:
                    return cls
        raise AttributeError(f"module {self.package!r} has no attribute {name!r}")

    def __getitem__(self, name: str) -> type[T]:
        """The class called `name`; only its own file is imported. If it reads ``module:Class``, it is the user's.

        Raises:
            ValueError: there is no such class, it cannot or must not be imported or it is of another kind.
        """
        if ":" in name:
            return self._import(name)
        if name in self.names:
            return self._find(name)
        close = get_close_matches(name, self.names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(self.names)}"
        raise ValueError(f"there is no {self.kind} {name!r}: {hint} (or a class of your own, 'module:Class')")

    def _find(self, name: str) -> type[T]:
        module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
            if not value.__name__.startswith("_")
        ]
        if len(found) != 1:
            # No ValueError, which would be the fault of the setup that names it.
            raise RuntimeError(
                f"{module.__name__}: expected one class derived from {self.base.__qualname__} (others begin with an "
                f"underscore), got {', '.join(cls.__qualname__ for cls in found) or 'none'}"
            )
        return found[0]

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
        self._expect_whole(found)
        return found

    def _expect_whole(self, cls: type[Options]) -> None:
        if lacking := cls.lacking():
            name = cls.written()
            raise ValueError(f"{name!r} is abstract: expected a class that implements {', '.join(lacking)}")
        if reason := cls.outdated():
            raise ValueError(f"the {self.kind} {cls.written()!r} is written for an earlier version: {reason}")

    def parse(self, value: Any) -> T:
        """Build an instance from what a setup file holds: an instance, a name, or a mapping with a name and options.

        Raises:
            ValueError: the value has another form or names nothing.
            pydantic.ValidationError: an option is unknown or has a wrong value.
        """
        if isinstance(value, self.base):
            self._expect_whole(type(value))
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected the {self.kind}'s name, or a mapping with its 'name' and options")
        options = {key: option for key, option in value.items() if key != "name"}
        return self[value["name"]].model_validate(options)
