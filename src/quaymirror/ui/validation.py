"""Values of a type from JSON values, which may come from a damaged or forged file."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..oci import Digest

T = TypeVar("T")

_LARGEST = 2**63


def built(cls: type[T], members: dict[str, Any]) -> T:
    """Return the dataclass `cls` made of `members`, JSON values.

    :raises TypeError: if a value is not of the type of its field.
    :raises LookupError: for an unknown field.
    """
    hints = get_type_hints(cls)
    return cls(**{name: parsed(value, hints[name]) for name, value in members.items()})


def parsed(value: Any, hint: Any) -> Any:
    """Return the JSON value `value` as the type `hint`; numbers are finite and fit into 64 bits.

    :raises TypeError: if it has another type.
    :raises ValueError: if it is no value of that type.
    """
    if hint in (int, float):
        # type(), because True is an instance of int. Neither NaN nor Infinity is smaller than anything.
        return _checked(value, type(value) in (int, hint) and abs(value) < _LARGEST)

    if hint in (str, bool, NoneType):
        return _checked(value, type(value) is hint)

    origin = get_origin(hint)
    if origin is UnionType:
        return _one_of(value, get_args(hint))

    return _object(value, hint) if origin is None else _collection(value, origin, get_args(hint))


def _checked(value: Any, is_right: bool) -> Any:
    if not is_right:
        raise TypeError("a value of another type")

    return value


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return parsed(value, hint)
        except TypeError:
            continue

    raise TypeError("a value of another type")


def _collection(value: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin in (list, tuple, deque):
        _checked(value, type(value) is list)
        return origin(parsed(item, arguments[0]) for item in value)

    _checked(value, origin in (dict, Counter) and type(value) is dict)
    of_values = int if origin is Counter else arguments[1]
    return origin({parsed(key, arguments[0]): parsed(item, of_values) for key, item in value.items()})


def _object(value: Any, hint: Any) -> Any:
    if hint is Digest:
        return Digest.parse(_checked(value, type(value) is str))

    if issubclass(hint, Enum):
        return hint(value)

    if issubclass(hint, dict):
        return hint(parsed(value, hint.__orig_bases__[0]))

    _checked(value, is_dataclass(hint) and type(value) is dict)
    return built(hint, value)


def expect_printable(value: Any) -> None:
    """Check that no text in `value` has control characters.

    :raises ValueError: if one has.
    """
    match value:
        case str() if not value.isprintable():
            raise ValueError("text that can't be printed")
        case list():
            for item in value:
                expect_printable(item)
        case dict():
            expect_printable([*value, *value.values()])
