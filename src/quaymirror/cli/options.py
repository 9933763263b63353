"""Sets of options that several commands have, and the selection and the options that their values mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from ..auth.files import read_secret_file, read_secret_stdin
from ..errors import ConfigError
from ..run.jobs import Job
from ..secret import Credentials, Secret
from ..selection.layouts import select_images
from ..selection.lockfile import read_lock
from ..selection.parse import parse_since
from ..selection.selection import Selection
from ..settings import DEFAULT_TARGET, Options, OutputOptions
from ..settings.register import OUTPUTS, field_values
from ..settings.spec import Heading
from .help import check_paths, command_option
from .messages import say

# The key of a context under which the password of standard input is kept.
_PASSWORD = "quaymirror.password"  # noqa: S105

F = TypeVar("F", bound=Callable[..., Any])

SELECTION_WORDS = ("organization", "glob", "tag", "globs", "tags", "exclude", "since", "select")


def selection_arguments(function: F) -> F:
    """Add the arguments that select images."""
    for name, metavar in (("tag", "[TAG]"), ("glob", "[GLOB]"), ("organization", "ORG|quay://ORG/GLOB:TAG")):
        function = click.argument(name, required=False, metavar=metavar)(function)

    return function


def json_option(text: str) -> Callable[[F], F]:
    """Add --json, whose help is `text`."""
    return command_option("--json", "as_json", is_flag=True, heading=Heading.OUTPUT, help=text)


def make_selections(given: Mapping[str, Any]) -> tuple[Selection, ...]:
    """Return the selections that the words in `given` mean: one, or one for each name that is selected of a layout.

    :raises ConfigError: if they are illegal.
    """
    selection, names = make_selection(given), given.get("select") or ()
    source = selection.source
    if source is not None and source.is_layout:
        return select_images(source, names, exclude=selection.exclude, since=selection.since)

    if names:
        raise ConfigError("--select is for layouts (ocidir://PATH): narrow other sources by GLOB and TAG")

    return (selection,)


def make_selection(given: Mapping[str, Any]) -> Selection:
    """Return the selection that the words in `given` mean.

    :raises ConfigError: if they are illegal.
    """
    organization, glob, tag = (given.get(name) for name in ("organization", "glob", "tag"))
    if organization is None:
        raise click.UsageError("Missing argument 'ORG'.")

    globs, tags, exclude = (tuple(given.get(name) or ()) for name in ("globs", "tags", "exclude"))
    now = datetime.now(UTC)
    since = given.get("since")
    moment = parse_since(since, now=now) if since is not None else None
    if "://" not in organization:
        return Selection(organization, _joined(glob, globs, "*"), _joined(tag, tags, "latest"), exclude, moment)

    if glob is not None or globs or tags:
        raise ConfigError("an address is a whole selection: no GLOB or TAG can follow it (--select narrows a layout)")

    return Selection.parse_uri(organization, exclude=exclude, since=moment, now=now)


def _joined(word: str | None, others: tuple[str, ...], default: str) -> str:
    words = others if word is None else (word, *others)
    return ",".join(words) if words else default


def make_outputs(given: Mapping[str, Any]) -> OutputOptions:
    """Return the options of outputs in `given`."""
    return OutputOptions(**{name: value for name, value in given.items() if name in OUTPUTS and value is not None})


def make_options(given: Mapping[str, Any]) -> Options:
    """Return the options that `given`, values by name, means, with secrets from files and standard input."""
    context = click.get_current_context(silent=True)
    if context is not None:
        check_paths(context)

    if given.get("password_stdin") and given.get("dest_password_stdin"):
        raise ConfigError("standard input can't be the password of both registries; put one into an auth file")

    return Options.of(
        **field_values(given),
        api_token=_api_token(given.get("token_file")),
        credentials=_credentials(given, ""),
        dest_credentials=_credentials(given, "dest"),
        environment=os.environ,
    )


def make_job(given: Mapping[str, Any], names: tuple[str, ...] = ()) -> Job:
    """Return the job that `given`, values by the names of options, means."""
    options = make_options({name: value for name, value in given.items() if name not in OUTPUTS})
    from_lock = given.get("from_lock")
    if from_lock is None:
        selections = make_selections(given)
    elif any(given.get(name) for name in SELECTION_WORDS):
        raise ConfigError("--from-lock is a whole selection: ORG, GLOB, TAG, --exclude and --since don't go with it")
    else:
        server, selections = read_lock(from_lock)
        options = options.replace(server=given.get("server") or server or options.source.server)

    # An empty --to, such as that of an unset variable of a script, is refused.
    target = given.get("target")
    return Job(selections, DEFAULT_TARGET if target is None else target, options, names)


def home_at(target: str, state: Path | None) -> Path:
    """Return the directory with the state of `target`, as given to sync together with --state."""
    from ..targets.kinds import find_target

    known = Options.of(state=state, environment=os.environ)
    return find_target(target, known).state_directory(known)


def _api_token(file: Path | None) -> Secret | None:
    if file is not None:
        return read_secret_file(file, on_notice=say)

    token = os.environ.get("QUAY_API_TOKEN")
    return Secret(token, what="QUAY_API_TOKEN") if token else None


def _credentials(given: Mapping[str, Any], side: str) -> Credentials | None:
    prefix, dashed = (f"{side}_", f"{side}-") if side else ("", "")
    username, from_stdin = given.get(f"{prefix}username"), bool(given.get(f"{prefix}password_stdin"))
    if (username is None) is from_stdin:
        raise ConfigError(f"--{dashed}username and --{dashed}password-stdin go together")

    return Credentials(username, _password()) if username is not None else None


def _password() -> Secret:
    """Read it from standard input, once for all jobs of a command."""
    meta = click.get_current_context().meta
    if _PASSWORD not in meta:
        if sys.stdin is None:
            raise ConfigError("--password-stdin: standard input is closed")

        meta[_PASSWORD] = read_secret_stdin(sys.stdin.buffer)

    password: Secret = meta[_PASSWORD]
    return password
