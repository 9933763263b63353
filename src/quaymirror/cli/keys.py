"""The keys of a configuration file: the options of `sync`, and the parts of a selection, under the names they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import click

from ..config.document import ConfigSchema, LocatedValue
from ..config.keys import OptionSpec, OptionType
from ..errors import ConfigError
from ..oci import Platform
from ..selection.parse import parse_since
from ..selection.selection import Selection
from ..settings import Options, OutputOptions, parse_rate
from ..settings.groups import GROUP_OF
from .help import long_name

# A job's selection has keys of its own; secrets have no place in a file; one run has one lock.
CREDENTIALS = ("username", "password_stdin", "dest_username", "dest_password_stdin")
_NO_KEYS = {"globs", "tags", "exclude", "since", *CREDENTIALS, "from_lock", "help", "verbose", "quiet", "yes"}
_OUTPUTS = {part.name for part in fields(OutputOptions)}

_SELECTION = (
    OptionSpec(
        "organization", required=True, help="The organization on the server.", check=lambda text: Selection(str(text))
    ),
    OptionSpec(
        "repositories",
        many=True,
        help="Globs; a repository that matches one of them is selected. All of them without it.",
        check=lambda text: Selection("org", str(text)),
    ),
    OptionSpec("tags", many=True, help="Tags, or globs for them.", check=lambda text: Selection("org", tags=str(text))),
    OptionSpec(
        "exclude",
        many=True,
        help="Globs; repositories that match one of them are left out.",
        check=lambda text: Selection("org", exclude=(str(text),)),
    ),
    OptionSpec(
        "since",
        help="Only tags updated since: a date, or a duration as 7d.",
        check=lambda text: parse_since(str(text), now=datetime.now(UTC)),
    ),
)
# Keys of a selection, and what `sync` calls them.
_WORDS = {key.name: "globs" if key.name == "repositories" else key.name for key in _SELECTION}


def file_options(command: click.Command) -> list[click.Option]:
    """Return the options of `sync` that a file can say, too."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return [option for option in options if option.name not in _NO_KEYS]


def shape_of(command: click.Command) -> ConfigSchema:
    """Return the shape of a configuration file: what `command`, which is `sync`, can be told."""
    options = file_options(command)
    return ConfigSchema(
        run=[_key(option, command) for option in options if option.name in _OUTPUTS],
        options=[_key(option, command) for option in options if option.name not in _OUTPUTS],
        selection=_SELECTION,
    )


def words_of(job: Mapping[str, LocatedValue]) -> dict[str, Any]:
    """Return the selection of a job as `make_selection` wants it."""
    given = {word: job[name].value for name, word in _WORDS.items() if name in job}
    several = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    nothing = {"organization": None, "glob": None, "tag": None, "globs": (), "tags": (), "exclude": (), "since": None}
    return nothing | given | several


def converted(option: click.Option, value: object, command: click.Command) -> Any:
    """Return what `option` makes of `value`, as if it had been said on the command line.

    :raises ConfigError: when it makes no sense.
    """
    try:
        return option.process_value(click.Context(command), value)
    except click.ClickException as error:
        raise ConfigError(error.message.rstrip(".")) from None


def _key(option: click.Option, command: click.Command) -> OptionSpec:
    def check(value: object) -> None:
        meant = converted(option, [value] if option.multiple else value, command)
        if option.name == "platform":
            Platform.parse(str(value))
        elif option.name == "limit_rate":
            parse_rate(str(value))
        elif option.name in GROUP_OF and option.name not in _OUTPUTS and not option.multiple and meant is not None:
            Options.of(**{option.name: meant})

    kind = _kind(option)
    choices = tuple(option.type.choices) if isinstance(option.type, click.Choice) else ()
    words = (option.help or "").partition("  [")[0].replace(" (repeatable)", "")
    return OptionSpec(long_name(option), kind, option.multiple, choices, words, check=check)


def _kind(option: click.Option) -> OptionType:
    if option.is_flag or isinstance(option.type, click.types.BoolParamType):
        return OptionType.FLAG

    if option.name == "target":
        return OptionType.TARGET

    if isinstance(option.type, click.Path):
        return OptionType.PATH

    return {"integer": OptionType.NUMBER, "integer range": OptionType.NUMBER, "float": OptionType.DECIMAL}.get(
        option.type.name, OptionType.TEXT
    )
