"""Declarations of options: the register from which the command line, the environment and the file are generated."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields, replace
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ConfigError, QuaymirrorError
from ..values import dataclass

SYSTEM = "system"
"""The word for the files that podman uses."""
_DECLARATION = "option"
_TRUE = {"1", "true", "t", "yes", "y", "on"}
_FALSE = {"0", "false", "f", "no", "n", "off"}


class Heading(StrEnum):
    """The headings of `--help-all`, in its order."""

    SELECTION = "Selection"
    TARGET = "Target"
    REGISTRY_TARGET = "Target that is a registry"
    CHECKS = "Checks and repair"
    SIGNATURES = "Signatures"
    PUBLISHING = "Sets of images"
    PRUNING = "Pruning"
    SOURCE = "Source"
    LIMITS = "Limits"
    SHARDS = "Several machines"
    OUTPUT = "Output"
    OTHER = "Other options"


class OptionType(Enum):
    """The type of a value; the words are JSON Schema's, besides the last two, which are strings there."""

    TEXT = "string"
    NUMBER = "integer"
    DECIMAL = "number"
    FLAG = "boolean"
    PATH = "path"
    """A path; a relative one in a configuration file starts at the file's directory."""
    TARGET = "target"
    """An address of a target, or a path as above."""


# The types of values by the annotations of fields.
_KINDS = {"int": OptionType.NUMBER, "float": OptionType.DECIMAL, "bool": OptionType.FLAG, "Path": OptionType.PATH}
_EXPECTED: Mapping[OptionType, tuple[str, tuple[type, ...]]] = {
    OptionType.NUMBER: ("an integer", (int,)),
    OptionType.DECIMAL: ("a number", (int, float)),
    OptionType.FLAG: ("true or false", (bool,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """One option: its spellings and values, and the channels that can give it.

    `parse` turns one text into the value of the field; `choices` are the only texts allowed; `least` and `most` bound
    a number, `accept` raises `ConfigError` for other illegal values, and `on_disk` for paths that can't be used on this
    machine. A `many` option can be repeated, and is an array in a file. `key` is its name in a file, its long spelling
    if empty. `commands` have the option besides `sync` and `run`, or `only` they. An `inverted` flag sets its field to
    False. A path may be the `word` instead, which is no path. A field gets the value that its `shorthand` `means`, or
    that of the option called `both` if it has none of its own.
    """

    name: str
    spellings: tuple[str, ...] = ()
    help: str = ""
    heading: Heading = Heading.OTHER
    kind: OptionType = OptionType.TEXT
    metavar: str = ""
    default: Any = None
    shown_default: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = field(default=None, compare=False)
    accept: Callable[[Any], object] | None = field(default=None, compare=False)
    on_disk: Callable[[Path], object] | None = field(default=None, compare=False)
    common: bool = False
    variables: tuple[str, ...] = ()
    has_variable: bool = True
    in_file: bool = True
    key: str = ""
    secret: bool = False
    commands: tuple[str, ...] = ()
    only: bool = False
    inverted: bool = False
    means: Any = None
    shorthand: OptionSpec | None = None
    both: str = ""
    word: str = ""

    @property
    def long(self) -> str:
        """The long spelling without its dashes, such as `layer-concurrency`; the key of options of files alone."""
        return self.spellings[-1].lstrip("-") if self.spellings else self.key or self.name

    @property
    def key_name(self) -> str:
        """The name in a configuration file."""
        return self.key or self.long

    @property
    def all_variables(self) -> tuple[str, ...]:
        """The environment variables, the main one first."""
        main = f"QUAYMIRROR_{self.long.replace('-', '_').upper()}"
        return (main, *self.variables) if self.has_variable else ()

    @property
    def default_text(self) -> Any:
        """The default as a file would have it."""
        if self.many:
            return list(self.default)

        if self.inverted:
            return not self.default

        return self.shown_default if self.parse is not None and self.default is not None else self.default

    def belongs_to(self, command: str) -> bool:
        """Return True if `command` has the option."""
        return bool(self.spellings) and (command in self.commands or (command in ("sync", "run") and not self.only))

    @property
    def is_flag(self) -> bool:
        """True if the option takes no value on the command line."""
        return self.kind is OptionType.FLAG and not self.metavar

    def value(self, given: object) -> Any:
        """Return the value that `given`, a text or a value of a file, means.

        :raises ConfigError: if it means none; the message does not name the option.
        """
        if self.many:
            items = given if isinstance(given, list | tuple) else [given]
            return tuple(self.item(item) for item in items)

        return self.item(given)

    def item(self, given: object) -> Any:
        """Return the value of one item of a `many` option, or of the option itself; see `value`."""
        try:
            found = self._typed(given)
        except QuaymirrorError as error:
            raise ConfigError(error.message) from None

        self.check(found)
        return found

    def check(self, value: object) -> None:
        """Raise `ConfigError` if `value` is not legal; None, for no value, always is."""
        if value is None:
            return

        if self.least is not None and self.most is not None:
            assert isinstance(value, int | float)
            if not self.least <= value <= self.most:
                raise ConfigError(f"must be between {self.least:g} and {self.most:,.10g}, not {_number(value)}")

        if self.accept is not None:
            self.accept(value)

    def check_disk(self, value: Any) -> None:
        """Raise `ConfigError` if `value` is a path that can't be used on this machine."""
        if self.on_disk is not None and value is not None:
            self.on_disk(value)

    def check_type(self, value: object, *, is_item: bool) -> None:
        """Raise `ConfigError` if the type of a file's value, or of an item of an array, is wrong."""
        expected, types = _EXPECTED.get(self.kind, ("a string", (str,)))
        if self.many and not is_item:
            expected, types = "an array of strings", (list,)

        # In Python a bool is an int; in TOML it is not.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ConfigError(f"must be {expected}, not {_shown(value)}")

    def _typed(self, given: object) -> Any:
        match self.kind:
            case OptionType.NUMBER | OptionType.DECIMAL:
                return self._number(given)
            case OptionType.FLAG:
                return _flag(given) is not self.inverted

        text = str(given)
        if "\0" in text:
            raise ConfigError("contains a NUL character")

        if self.choices and text not in self.choices:
            raise ConfigError(f"must be one of {', '.join(self.choices)}, not {text[:60]!r}")

        if self.parse is not None:
            return self.parse(text)

        return Path(text) if self.kind is OptionType.PATH else text

    def _number(self, given: Any) -> int | float:
        number = int if self.kind is OptionType.NUMBER else float
        try:
            return number(given)
        except (ValueError, OverflowError):
            raise ConfigError(f"must be {_EXPECTED[self.kind][0]}, not {str(given)[:60]!r}") from None


def declare(usage: str, text: str, default: Any = None, **more: Any) -> OptionSpec:
    """Return the option with a `usage` such as `-c, --concurrency N`, and further attributes of `OptionSpec`.

    An option whose default is () can be repeated.
    """
    *short, last = usage.split(", ")
    long, _, metavar = last.partition(" ")
    more.setdefault("name", long.lstrip("-").replace("-", "_"))
    choices = more.get("choices")
    if isinstance(choices, type) and issubclass(choices, Enum):
        more |= {"choices": tuple(member.value for member in choices), "parse": choices, "shown_default": default.value}

    more |= {"spellings": (*short, long), "metavar": metavar, "many": default == ()}
    return OptionSpec(help=text, default=default, **more)


def option(usage: str, text: str, default: Any = None, **more: Any) -> Any:
    """Declare a field of a group as an option; see `declare`.

    The name of the field is the long spelling, unless `usage` has it. The heading is the group's, if none is given, and
    the type is that of the annotation.
    """
    return field(default=default, metadata={_DECLARATION: (usage, text, default, more)}, repr=not more.get("secret"))


def flag(text: str, default: bool = False, **more: Any) -> Any:
    """Declare a field that is True if its option, which takes no value, is given."""
    return option("", text, default, **more)


def shorthand(usage: str, text: str, means: Any, **more: Any) -> OptionSpec:
    """Declare a flag that gives its field the value `means`."""
    return declare(usage, text, False, kind=OptionType.FLAG, means=means, **more)


class Group:
    """Base of groups: a value out of range is refused when the group is made."""

    __slots__ = ()
    heading: ClassVar[Heading] = Heading.OTHER

    @classmethod
    @cache
    def specs(cls) -> tuple[OptionSpec, ...]:
        """Return the options that the group declares."""
        declared: Any = cls
        return tuple(_spec_of(each, cls.heading) for each in fields(declared) if _DECLARATION in each.metadata)

    def __post_init__(self) -> None:
        for spec in self.specs():
            value = getattr(self, spec.name)
            try:
                for item in value if spec.many else (value,):
                    spec.check(item)

                spec.check_disk(value)
            except ConfigError as error:
                raise ConfigError(f"{spec.long}: {error.message}") from None


def _spec_of(declared: Field[Any], heading: Heading) -> OptionSpec:
    usage, text, default, more = declared.metadata[_DECLARATION]
    if not usage.startswith("-"):
        usage = f"--{declared.name.replace('_', '-')} {usage}"

    spec = declare(usage, text, default, **{"heading": heading, **more, "name": declared.name})
    kind = OptionType.TEXT if spec.parse is not None else _KINDS.get(str(declared.type).split()[0], OptionType.TEXT)
    short = replace(spec.shorthand, heading=spec.heading) if spec.shorthand is not None else None
    return replace(spec, kind=kind, shorthand=short)


def existing_directory(path: Path) -> None:
    """Raise `ConfigError` if `path` is not a directory."""
    # Path.is_dir raises for names that are too long.
    if not os.path.isdir(path):  # noqa: PTH112
        raise ConfigError(f"no such directory: {str(path)!r}")


def possible_directory(path: Path) -> None:
    """Raise `ConfigError` if `path` is something else than a directory."""
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - as above
        raise ConfigError(f"not a directory: {str(path)!r}")


def existing_file(path: Path) -> None:
    """Raise `ConfigError` if `path` is not a regular file."""
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        fault = "not a regular file" if os.path.exists(path) else "no such file"  # noqa: PTH110 - as above
        raise ConfigError(f"{fault}: {str(path)!r}")


def existing_policy(path: Path) -> None:
    """Raise `ConfigError` if `path` is neither a regular file nor the word for the system's policy."""
    if str(path) != SYSTEM:
        existing_file(path)


def appendable_file(path: Path) -> None:
    """Raise `ConfigError` if `path` is a directory, or in one that does not exist."""
    if os.path.isdir(path) or not os.path.isdir(path.absolute().parent):  # noqa: PTH112 - as above
        raise ConfigError(f"can't write a file at {str(path)!r}")


def writable_file(path: Path) -> None:
    """Raise `ConfigError` if `path` is neither a writable file nor in a directory where one can be created."""
    appendable_file(path)
    is_replaced = not os.path.exists(path) or os.path.isfile(path)  # noqa: PTH110, PTH113 - as above
    needed = (path.absolute().parent, os.W_OK | os.X_OK) if is_replaced else (path, os.W_OK)
    if not os.access(*needed):
        raise ConfigError(f"can't write a file at {str(path)!r}: permission denied")


def replaceable_file(path: Path) -> None:
    """Raise `ConfigError` if no regular file can be put at `path`."""
    writable_file(path)
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - as above
        raise ConfigError(f"{str(path)!r} is not a regular file, and would be replaced by one")


def _flag(given: object) -> bool:
    if isinstance(given, bool):
        return given

    word = str(given).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ConfigError(f"must be true or false, not {str(given)[:60]!r}")

    return word in _TRUE


def _number(value: float) -> str:
    try:
        return f"{value:,.10g}"
    except OverflowError:
        return f"a number of {len(str(value))} digits"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()

    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "a table"

    return repr(value)[:60]
