"""Dataclasses and regular expressions that start fast: their work is done when they are used.

The standard library's generator of methods takes 0.3 ms for a frozen class, 15 % of the time in which a night without
changes is over. With the drop-in, a class with slots takes a tenth of it, and its `__init__` is generated once it has
many instances: most classes have few or none in such a night. Type checkers see the originals, and they alone prevent
assignments to the fields of frozen classes.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# Instances before an `__init__` is generated, which takes longer than so many without it.
_FEW = 16
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
            made = _make(cls, **options)
            if not has_init:
                made.__init__ = _generating(made)

            made.compared_values = _reading(made, "compared_values", _is_compared)
            made.hashed_values = _reading(made, "hashed_values", _is_hashed)
            return made

        return make if cls is None else make(cls)


def _make(cls: Any, *, slots: bool = False, kw_only: bool = False) -> Any:
    """Return the class with slots for its fields, and with their descriptions."""
    hints: dict[str, Any] = cls.__annotations__
    if not slots or not all(isinstance(hint, str) for hint in hints.values()):
        return dataclasses.dataclass(init=False, eq=False, repr=False, slots=slots, kw_only=kw_only)(cls)

    own = {name: hint for name, hint in hints.items() if not hint.startswith(("ClassVar", "typing.ClassVar"))}
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    defaults = {name: members.pop(name, dataclasses.MISSING) for name in own}
    inherited = {slot for base in cls.__mro__[1:-1] for slot in vars(base).get("__slots__", ())}
    fields: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:-1]):
        fields.update(getattr(base, "__dataclass_fields__", {}))

    fields.update((name, _field(name, hint, defaults[name], kw_only=kw_only)) for name, hint in own.items())
    members["__slots__"] = tuple(name for name in own if name not in inherited)
    members["__dataclass_fields__"] = fields
    members["__match_args__"] = tuple(each.name for each in fields.values() if each.init and not each.kw_only)
    made = type(cls)(cls.__name__, cls.__bases__, members)
    made.__qualname__ = cls.__qualname__
    return made


def _field(name: str, hint: str, default: Any, *, kw_only: bool) -> Any:
    """Return the description of a field, as `dataclasses.fields` does."""
    described: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
    described.name, described.type = name, hint
    described._field_type = _KIND  # noqa: SLF001 - which shows that it is not a class variable
    if described.kw_only is dataclasses.MISSING:
        described.kw_only = kw_only

    return described


def _reading(cls: Any, method: str, is_read: Callable[[Any], bool]) -> Any:
    """Return a function of an instance that returns the values of the fields that `is_read` wants, and replaces itself.

    It is the static `method` of the class.
    """

    def read(self: Any) -> Any:
        setattr(cls, method, _getter(each.name for each in dataclasses.fields(cls) if is_read(each)))
        return getattr(cls, method)(self)

    return staticmethod(read)


def _is_compared(field: Any) -> bool:
    return bool(field.compare)


def _is_hashed(field: Any) -> bool:
    return bool(field.compare) and field.hash is not False


def _generating(cls: Any) -> Callable[..., None]:
    """Return an initializer that replaces itself by a generated one when it is called often, or wrongly."""
    left = _FEW
    fields: tuple[Any, ...] | None = None

    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807 - the name in tracebacks
        nonlocal left, fields
        left -= 1
        if fields is None:
            fields = dataclasses.fields(cls)

        if left < 0 or not _assigned(self, fields, args, named):
            cls.__init__ = _initializer(cls)
            cls.__init__(self, *args, **named)

    return __init__


def _assigned(self: Any, fields: Iterable[Any], args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Do what a generated initializer does; return False if the arguments are wrong, which that one says."""
    place, used = 0, 0
    for each in fields:
        name = each.name
        if each.init and not each.kw_only and place < len(args):
            setattr(self, name, args[place])
            place += 1
        elif each.init and name in named:
            setattr(self, name, named[name])
            used += 1
        elif each.default is not dataclasses.MISSING:
            setattr(self, name, each.default)
        elif each.default_factory is not dataclasses.MISSING:
            setattr(self, name, each.default_factory())
        elif each.init:
            return False

    if place < len(args) or used < len(named):
        return False

    if hasattr(self, "__post_init__"):
        self.__post_init__()

    return True


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
_KIND: Any = dataclasses._FIELD  # type: ignore[attr-defined]  # noqa: SLF001


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
