"""Whether JSON values are what a type says: a document that lies on a disk may be anybody's."""

from __future__ import annotations

from collections import Counter, deque
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_LARGEST = 2**63


def built(cls: type[T], members: dict[str, Any]) -> T:
    """Return the dataclass `cls` made of `members`, JSON values; arrays become tuples where it wants them.

    :raises TypeError: when one is of another type than its field, or there is no such field.
    """
    hints = field_types(cls)
    for name, value in members.items():
        expect(value, hints.get(name))

    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in members.items()})


def field_types(cls: type) -> dict[str, Any]:
    """Return the types of the fields of `cls`, by their names."""
    return get_type_hints(cls)


def expect(value: Any, hint: Any) -> None:
    """Make sure that `value` is what `hint` says; numbers are finite, and fit into 64 bits.

    :raises TypeError: when it is not.
    """
    if not _fits(value, hint):
        raise TypeError("a value of another type")


def expect_printable(value: Any) -> None:
    """Make sure that no text in `value` does anything to a terminal.

    :raises ValueError: when one might.
    """
    match value:
        case str() if not value.isprintable():
            raise ValueError("text that can't be printed")
        case list():
            for item in value:
                expect_printable(item)
        case dict():
            expect_printable([*value, *value.values()])


def _fits(value: Any, hint: Any) -> bool:
    if hint in (int, float):
        # type(), not isinstance(): true is an int to Python. Neither NaN nor Infinity is smaller than anything.
        return type(value) in (int, hint) and abs(value) < _LARGEST

    if hint in (str, bool, NoneType):
        return type(value) is hint

    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, argument) for argument in arguments)

    if origin in (list, tuple, deque):
        return type(value) is list and all(_fits(item, arguments[0]) for item in value)

    if origin in (dict, Counter):
        of_values = int if origin is Counter else arguments[1]
        return type(value) is dict and all(_fits(item, of_values) for item in value.values())

    return False
