"""Click options made from the register, and `--help` that shows them under headings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..settings.register import options_of
from ..settings.spec import Heading, OptionSpec, OptionType

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLES = 2
_ALL = "quaymirror.help-all"


class _Value(click.ParamType[Any]):
    """The value of an option, parsed as its declaration says."""

    def __init__(self, spec: OptionSpec) -> None:
        self.spec = spec
        self.name = spec.kind.value

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that a text means; other values were converted before."""
        if not isinstance(value, str):
            return value

        try:
            return self.spec.item(value)
        except ConfigError as error:
            self.fail(error.message, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a choice, or let the shell complete a path."""
        from click.shell_completion import CompletionItem

        if self.spec.kind in (OptionType.PATH, OptionType.TARGET):
            return [CompletionItem(incomplete, type="file")]

        return [CompletionItem(choice) for choice in self.spec.choices if choice.startswith(incomplete)]


class _Address(click.ParamType[str]):
    """A mirror or a target, which may be a path; nothing is checked here."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete a path."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class _Directory(click.ParamType[Path]):
    """A directory of this machine. The address of another place is refused: it would become the name of a directory."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, without `ocidir://`."""
        text = os.fspath(value).removeprefix("ocidir://")
        if _SCHEME.match(text):
            self.fail(f"{text} is not a directory of this machine; push takes a mirror there", param, ctx)

        return Path(text)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete a directory."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
ADDRESS = _Address()
DIRECTORY = _Directory()


class CommandOption(click.Option):
    """An option under a heading; `common` ones are in the short help."""

    def __init__(
        self, names: Sequence[str], *, heading: Heading = Heading.OTHER, common: bool = True, **attributes: Any
    ) -> None:
        super().__init__(names, **attributes)
        self.heading = heading
        self.common = common


class RegisteredOption(CommandOption):
    """An option of the register; None is its value when it is not given."""

    def __init__(self, names: Sequence[str], *, spec: OptionSpec) -> None:
        has_default = spec.default not in (None, ()) and not isinstance(spec.default, bool)
        default = spec.shown_default or (spec.default_text if has_default else "")
        notes = [*(["repeatable"] if spec.many else []), *([f"default: {default}"] if default else [])]
        super().__init__(
            names,
            heading=spec.heading,
            common=spec.common,
            type=click.BOOL if spec.is_flag else _Value(spec),
            is_flag=spec.is_flag,
            multiple=spec.many,
            default=None,
            metavar=spec.metavar or None,
            envvar=list(spec.all_variables) or None,
            help=spec.help + (f"  [{'; '.join(notes)}]" if notes else ""),
        )
        self.spec = spec

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the value that is meant: for an inverted flag the opposite of the one that was given."""
        found = super().process_value(ctx, value)
        return not found if self.spec.inverted and found is not None else found

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return where a wrong value is: the environment variable, or the option."""
        assert self.name is not None
        if ctx is not None and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            return self.variable

        return super().get_error_hint(ctx)

    @property
    def variable(self) -> str:
        """The environment variable that is set, '' if none is."""
        return next((variable for variable in self.spec.all_variables if os.environ.get(variable)), "")


def check_paths(context: click.Context) -> None:
    """Raise `click.BadParameter` if a path that an option gives can't be used on this machine."""
    for param in context.command.params:
        if isinstance(param, RegisteredOption):
            try:
                param.spec.check_disk(context.params.get(param.spec.name))
            except ConfigError as error:
                raise click.BadParameter(error.message, context, param) from None


def options(command: str) -> Callable[[F], F]:
    """Add the options that the register has for `command`."""

    def decorate(function: F) -> F:
        for spec in reversed(options_of(command)):
            function = click.option(*spec.spellings, spec.name, cls=RegisteredOption, spec=spec)(function)

        return function

    return decorate


def command_option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Add an option that only this command has: it has no environment variable, and no key in a file."""
    return click.option(*names, cls=CommandOption, **attributes)


def _show_all(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        assert isinstance(context.command, GroupedCommand)
        click.echo(context.command.full_help(context), color=context.color)
        context.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options, by topic.",
)


class GroupedCommand(click.Command):
    """A command with more options than a screen has lines: --help shows the common ones, --help-all all of them."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, --help-all and --help the last ones."""
        *params, last = super().get_params(ctx)
        return [*params, _HELP_ALL, last]

    def full_help(self, ctx: click.Context) -> str:
        """Return the text of --help-all."""
        ctx.meta[_ALL] = True
        return self.get_help(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description and the examples: in short the first paragraph and a few examples."""
        if ctx.meta.get(_ALL):
            super().format_help_text(ctx, formatter)
            return

        text, _, examples = (self.help or "").partition("\b\n")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text.partition("\n\n")[0])

        if examples:
            formatter.write_paragraph()
            # Not wrapped, so that they can be copied.
            formatter.write("".join(f"  {line.strip()}\n" for line in examples.splitlines()[:_EXAMPLES]))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: the common ones, or all under their headings."""
        rows: dict[Heading, list[click.Option]] = {heading: [] for heading in Heading}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and not param.hidden:
                # click's own --help has no heading.
                rows[getattr(param, "heading", Heading.OTHER)].append(param)

        if not ctx.meta.get(_ALL):
            common = [param for params in rows.values() for param in params if getattr(param, "common", True)]
            with formatter.section("Options"):
                formatter.write_dl(_short_rows(common, ctx, formatter.width))

            return

        for heading, params in rows.items():
            if params:
                with formatter.section(heading):
                    formatter.write_dl([record for param in params if (record := param.get_help_record(ctx))])


def _short_rows(params: Sequence[click.Option], ctx: click.Context, width: int) -> list[tuple[str, str]]:
    """Return a row for each option: its main names, and its help, with the default if that fits into one line."""
    names = [_main_names(option, ctx) for option in params]
    room = width - max(map(len, names)) - 4
    rows = []
    for name, option in zip(names, params, strict=True):
        _, text = option.get_help_record(ctx) or ("", "")
        rows.append((name, text if len(text) <= room else text.partition("  [")[0]))

    return rows


def _main_names(option: click.Option, ctx: click.Context) -> str:
    short = [name for name in option.opts if not name.startswith("--")]
    metavar = "" if option.is_flag else f" {option.make_metavar(ctx)}"
    return ", ".join([*short, option.opts[-1]]) + metavar
