"""Dataclasses and regular expressions that start fast: their work is done when they are used.

The standard library's generator of methods takes 0.3 ms for a frozen class, 15 % of the time in which a night without
changes is over. With the drop-in, a class takes a tenth of it, and its `__init__` is generated for the first instance:
half of the classes have none in such a night. Type checkers see the originals, and they alone prevent assignments to
the fields of frozen classes.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

_METHODS = ("fullmatch", "match", "search", "sub", "split", "findall", "finditer")

if TYPE_CHECKING:
    from dataclasses import dataclass
    from re import compile as pattern
else:

    def pattern(text, flags=0):
        """Return a regular expression with the methods of `re.Pattern`, which is compiled when one of them is used."""
        lazy = SimpleNamespace(pattern=text)

        def compiling(method):
            def call(*args, **named):
                compiled = re.compile(text, flags)
                vars(lazy).update((each, getattr(compiled, each)) for each in _METHODS)
                return getattr(compiled, method)(*args, **named)

            return call

        vars(lazy).update((each, compiling(each)) for each in _METHODS)
        return lazy

    def dataclass(cls=None, /, *, frozen=False, eq=True, repr=True, order=False, init=True, **options):  # noqa: A002 - the original's name
        """Return the class as `dataclasses.dataclass` does."""

        def make(cls):
            own = vars(cls)
            has_init = "__init__" in own or not init
            if repr and "__repr__" not in own:
                cls.__repr__ = _repr

            if eq and "__eq__" not in own:
                cls.__eq__ = _eq
                if "__hash__" not in own:
                    cls.__hash__ = _hash if frozen else None

            if order:
                cls.__lt__, cls.__le__, cls.__gt__, cls.__ge__ = _ORDER

            cls.__doc__ = cls.__doc__ or cls.__name__  # the original would derive one from the signature, slowly
            made = dataclasses.dataclass(cls, init=False, eq=False, repr=False, **options)
            if not has_init:
                made.__init__ = _generating(made)

            compared = [each for each in dataclasses.fields(made) if each.compare]
            made.compared_values = _getter(each.name for each in compared)
            made.hashed_values = _getter(each.name for each in compared if each.hash is not False)
            return made

        return make if cls is None else make(cls)


def _generating(cls: Any) -> Callable[..., None]:
    """Return an initializer that replaces itself when it is called first."""

    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807 - the name in tracebacks
        cls.__init__ = _initializer(cls)
        cls.__init__(self, *args, **named)

    return __init__


def _initializer(cls: Any) -> Any:
    """Return the function that the standard library would generate; it has no support for `InitVar`."""
    known: dict[str, Any] = {"unset": _UNSET}
    positional = ["self"]
    keywords: list[str] = []
    body: list[str] = []
    for each in dataclasses.fields(cls):
        name, default = each.name, f"default_{each.name}"
        argument, value = name, name
        if each.default is not dataclasses.MISSING:
            known[default] = each.default
            argument, value = f"{name}={default}", name if each.init else default
        elif each.default_factory is not dataclasses.MISSING:
            known[default] = each.default_factory
            argument = f"{name}=unset"
            value = f"{default}() if {name} is unset else {name}" if each.init else f"{default}()"
        elif not each.init:
            continue

        body.append(f" self.{name} = {value}\n")
        if each.init:
            (keywords if each.kw_only else positional).append(argument)

    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()\n")

    arguments = ", ".join([*positional, *(["*", *keywords] if keywords else ())])
    exec(f"def __init__({arguments}):\n{''.join(body) or ' pass'}", known)  # noqa: S102 - made of names of fields
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


_UNSET = object()


def _compared(compare: Callable[[Any, Any], Any]) -> Any:
    def method(self: Any, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented

        return compare(self.compared_values(self), other.compared_values(other))

    return method


_ORDER = tuple(_compared(each) for each in (operator.lt, operator.le, operator.gt, operator.ge))


def _getter(names: Iterable[str]) -> Any:
    names = tuple(names)
    return attrgetter(*names) if names else staticmethod(lambda _: ())


def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> bool:
    return self.compared_values(self) == other.compared_values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(self.hashed_values(self))


__all__ = ["dataclass", "pattern"]
