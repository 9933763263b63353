"""`--help` in groups, and a variable of the environment for every option."""

from __future__ import annotations

from collections.abc import Sequence

import click

_GROUPS = {
    "What": ("globs", "tags", "exclude", "since", "platform", "from_lock", "allow_empty", "config"),
    "Where to": ("target", "filters", "allow_extract", "dry_run", "fsync", "no_space_check", "wait"),
    "A target that is a registry": (
        "dest_username",
        "dest_password_stdin",
        "dest_cert_dir",
        "dest_tls_verify",
        "state",
        "check_target",
        "verify_target",
    ),
    "How to look, and what to mend": ("fast", "mend", "repair_state"),
    "What is gone at the source": ("prune", "grace", "max_delete", "yes"),
    "From where": (
        "server",
        "token_file",
        "username",
        "password_stdin",
        "authfile",
        "allow_realm",
        "allow_foreign_layers",
        "cafile",
        "src_cert_dir",
        "src_tls_verify",
        "cert_dir",
        "tls_verify",
    ),
    "How much at once, how long": (
        "concurrency",
        "layer_concurrency",
        "retries",
        "limit_rate",
        "max_requests_per_second",
        "discovery",
        "max_duration",
        "full_check_every",
        "full_check",
        "expect_at_least",
        "max_missing",
    ),
    "What is shown and left behind": (
        "as_json",
        "progress",
        "verbose",
        "quiet",
        "log_file",
        "log_format",
        "report",
        "report_html",
        "lock_file",
        "metrics_textfile",
        "ping_url",
    ),
}
_OTHER = "Other options"
# What is no setting: a variable for it would only surprise.
_WITHOUT_VARIABLE = {
    "help",
    "help_all",
    "version",
    "password_stdin",
    "dest_password_stdin",
    "from_lock",
    "as_json",
    "yes",
}


# What --help shows, by long names: what most people need, on one screen of 80x24. The rest is in --help-all.
_COMMON = (
    "config",
    "fast",
    "repair",
    "repair-state",
    "to",
    "dry-run",
    "exclude",
    "since",
    "platform",
    "concurrency",
    "limit-rate",
    "prune",
    "json",
    "server",
    "token-file",
    "username",
    "progress",
    "report",
    "help-all",
    "help",
)
_EXAMPLES = 2
_ALL = "quaymirror.help-all"


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
    help="Show every option, by what it is about.",
)


class GroupedCommand(click.Command):
    """A command with more options than a screen has lines: --help has the common ones, --help-all each by its group."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, --help-all and --help the last ones."""
        *params, last = super().get_params(ctx)
        return [*params, _HELP_ALL, last]

    def full_help(self, ctx: click.Context) -> str:
        """Return what --help-all prints."""
        ctx.meta[_ALL] = True
        return self.get_help(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command is for, and examples: in short the first paragraph and a few of them."""
        if ctx.meta.get(_ALL):
            super().format_help_text(ctx, formatter)
            return

        text, _, examples = (self.help or "").partition("\b\n")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text.partition("\n\n")[0])

        if examples:
            formatter.write_paragraph()
            # As they are, so that they can be copied: nothing is wrapped.
            formatter.write("".join(f"  {line.strip()}\n" for line in examples.splitlines()[:_EXAMPLES]))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: the common ones, or all by what they are about, those of no group last."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
        if not ctx.meta.get(_ALL):
            common = [option for option in options if long_name(option) in _COMMON]
            common.sort(key=lambda option: _COMMON.index(long_name(option)))
            with formatter.section("Options"):
                formatter.write_dl(_short_rows(common, ctx, formatter.width))

            return

        groups = {name: group for group, names in _GROUPS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*_GROUPS, _OTHER)}
        for option in options:
            record = option.get_help_record(ctx)
            if record is not None:
                rows[groups.get(option.name or "", _OTHER)].append(record)

        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _short_rows(options: Sequence[click.Option], ctx: click.Context, width: int) -> list[tuple[str, str]]:
    """Return a row for each option: its main names, and its help, with the default if that fits into one line."""
    names = [_main_names(option, ctx) for option in options]
    room = width - max(map(len, names)) - 4
    rows = []
    for name, option in zip(names, options, strict=True):
        _, text = option.get_help_record(ctx) or ("", "")
        rows.append((name, text if len(text) <= room else text.partition("  [")[0]))

    return rows


def _main_names(option: click.Option, ctx: click.Context) -> str:
    short = [name for name in option.opts if not name.startswith("--")]
    metavar = "" if option.is_flag else f" {option.make_metavar(ctx)}"
    return ", ".join([*short, f"--{long_name(option)}"]) + metavar


def long_name(option: click.Option) -> str:
    """Return the name that people know an option by, without its dashes: `layer-concurrency`."""
    return next(name for name in option.opts if name.startswith("--")).removeprefix("--")


def add_variables(command: click.Command) -> None:
    """Let every option be said by a variable: QUAYMIRROR_ and its name in capitals."""
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in _WITHOUT_VARIABLE:
            variable = "QUAYMIRROR_" + long_name(option).replace("-", "_").upper()
            others = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            option.envvar = [variable, *(other for other in others if other != variable)]
