"""`--help` in groups, and a variable of the environment for every option."""

from __future__ import annotations

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
        "progress",
        "verbose",
        "quiet",
        "log_file",
        "log_format",
        "report_file",
        "report_html",
        "lock_file",
        "metrics_textfile",
        "ping_url",
    ),
}
_OTHER = "Other options"
# What is no setting: a variable for it would only surprise.
_WITHOUT_VARIABLE = {"help", "version", "password_stdin", "dest_password_stdin", "from_lock", "as_json", "yes"}


class GroupedCommand(click.Command):
    """A command with more options than one list is good for."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by what they are about; those of no group come last."""
        groups = {name: group for group, names in _GROUPS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*_GROUPS, _OTHER)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                rows[groups.get(param.name or "", _OTHER)].append(record)

        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


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
