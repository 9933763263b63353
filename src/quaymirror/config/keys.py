"""What a configuration file may hold: the keys of its tables, and what each may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..errors import ConfigError

Value = str | int | float | bool | list[str]


class OptionType(Enum):
    """The type of a value; the words are JSON Schema's."""

    TEXT = "string"
    NUMBER = "integer"
    DECIMAL = "number"
    FLAG = "boolean"
    PATH = "path"
    """A path of a file; a relative one is meant from the directory that the configuration file is in."""
    TARGET = "target"
    """Where images land: an address, or a path as above."""


_NAMES = {OptionType.NUMBER: "a whole number", OptionType.DECIMAL: "a number", OptionType.FLAG: "true or false"}
_TYPES: Mapping[OptionType, tuple[type, ...]] = {
    OptionType.NUMBER: (int,),
    OptionType.DECIMAL: (int, float),
    OptionType.FLAG: (bool,),
}


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One key: with `many` its value is an array of texts. `choices` are all there are; () means any.

    `check` raises `ConfigError` for a value, or an item of the array, that has the right type and makes no sense.
    """

    name: str
    kind: OptionType = OptionType.TEXT
    many: bool = False
    choices: tuple[str, ...] = ()
    help: str = ""
    required: bool = False
    check: Callable[[str | int | float | bool], object] | None = field(default=None, compare=False)

    def fault(self, value: object) -> str:
        """Return what is wrong with `value`, '' if nothing is."""
        if self.many:
            return "" if isinstance(value, list) else f"has to be an array of texts, not {_shown(value)}"

        return self.fault_of_one(value)

    def fault_of_one(self, value: object) -> str:
        """Return what is wrong with `value` as one item of the array, or as the value itself."""
        types = _TYPES.get(self.kind, (str,))
        if not isinstance(value, str | int | float) or not isinstance(value, types) or _is_odd_bool(value, types):
            return f"has to be {_NAMES.get(self.kind, 'a text')}, not {_shown(value)}"

        if self.choices and value not in self.choices:
            return f"has to be one of {', '.join(self.choices)}, not {_shown(value)}"

        return self._nonsense(value)

    def _nonsense(self, value: str | int | float | bool) -> str:
        try:
            if self.check is not None:
                self.check(value)
        except ConfigError as error:
            return error.message

        is_path = self.kind in (OptionType.PATH, OptionType.TARGET)
        return "there is no such home directory" if is_path and not _has_home(str(value)) else ""


def _has_home(path: str) -> bool:
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False

    return True


def _is_odd_bool(value: object, types: tuple[type, ...]) -> bool:
    # In Python a bool is an int; in TOML it is none.
    return isinstance(value, bool) and bool not in types


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()

    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "a table"

    return repr(value)[:60]
