"""Options that several commands share, and how they become a selection and settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import ConfigError
from ..mirror.settings import DEFAULT_SERVER, Settings
from ..net.secret import Credentials, Secret, read_secret_file, read_secret_stdin
from ..oci import Platform
from ..quay.check import Discovery
from ..quay.selection import Selection, parse_since

F = TypeVar("F", bound=Callable[..., Any])

_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s?([KMGTkmgt])?(?:i?[Bb])?(?:/s)?")

_SELECTION = (
    click.argument("organization", metavar="ORG|quay://ORG/GLOB:TAG"),
    click.argument("glob", required=False, metavar="[GLOB]"),
    click.argument("tag", required=False, metavar="[TAG]"),
    click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out repositories that match (repeatable)."),
    click.option("--since", metavar="DATE|DURATION", help="Only tags updated since: 2025-04-01, 7d, 12h."),
)
_SERVER = (
    click.option(
        "--server",
        metavar="URL",
        default=DEFAULT_SERVER,
        envvar="QUAYMIRROR_SERVER",
        show_default=True,
        help="The Quay server, API and registry alike; http:// means plain HTTP.",
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        envvar="QUAY_API_TOKEN_FILE",
        help="File with an API token (or QUAY_API_TOKEN in the environment).",
    ),
    click.option("--cafile", type=click.Path(path_type=Path), help="CA certificates to trust, PEM."),
    click.option(
        "--discovery",
        type=click.Choice([way.value for way in Discovery]),
        default="auto",
        show_default=True,
        help="Whom to ask for tags: Quay's API (few calls a second) or its registry (logs each as a pull).",
    ),
    click.option(
        "--max-requests-per-second", metavar="N", type=float, help="Over everything that is asked of the source."
    ),
    click.option("--retries", type=int, default=5, show_default=True, help="Tries again after a failure."),
    click.option("--allow-empty", is_flag=True, help="A selection without images is no error."),
)
_REGISTRY = (
    click.option("--username", help="User or robot account for the registry."),
    click.option("--password-stdin", is_flag=True, help="Read its password from standard input."),
    click.option("--authfile", type=click.Path(path_type=Path), help="Auth file instead of docker's and podman's."),
    click.option(
        "--allow-realm", metavar="HOST", multiple=True, help="Trust this host's token service, too (repeatable)."
    ),
)


def selection_options(function: F) -> F:
    """Add the words that select images."""
    return _apply(_SELECTION, function)


def server_options(function: F) -> F:
    """Add the options of the server."""
    return _apply(_SERVER, function)


def registry_options(function: F) -> F:
    """Add the options for pulling."""
    return _apply(_REGISTRY, function)


def _apply(decorators: Iterable[Callable[[F], F]], function: F) -> F:
    return reduce(lambda decorated, decorator: decorator(decorated), reversed(list(decorators)), function)


def make_selection(
    organization: str, glob: str | None, tag: str | None, *, exclude: tuple[str, ...], since: str | None
) -> Selection:
    """Return the selection that the words mean.

    :raises ConfigError: when they make no sense.
    """
    now = datetime.now(UTC)
    moment = parse_since(since, now=now) if since is not None else None
    if "://" not in organization:
        return Selection(
            organization, "*" if glob is None else glob, "latest" if tag is None else tag, exclude=exclude, since=moment
        )

    if glob is not None:
        raise ConfigError("a quay:// address says everything: no GLOB or TAG after it")

    return Selection.parse_uri(organization, exclude=exclude, since=moment, now=now)


def make_settings(**options: Any) -> Settings:
    """Return the settings that the options mean, secrets read from where they are; what is None is left to defaults.

    :raises ConfigError: when they make no sense.
    """
    token_file = options.pop("token_file", None)
    username, password_stdin = options.pop("username", None), options.pop("password_stdin", False)
    discovery, rate = options.pop("discovery", "auto"), options.pop("limit_rate", None)
    platforms = tuple(Platform.parse(text) for text in options.pop("platform", ()))
    return Settings(
        api_token=_api_token(token_file),
        credentials=_credentials(username, from_stdin=password_stdin),
        allow_realms=frozenset(options.pop("allow_realm", ())),
        platforms=platforms,
        discovery=Discovery(discovery),
        limit_rate=None if rate is None else parse_rate(rate),
        environment=os.environ,
        **{name: value for name, value in options.items() if value is not None},
    )


def parse_rate(text: str) -> int:
    """Return the bytes a second that `text` says: `500K`, `20M`, `1.5 MiB`, `10MB/s`; units are powers of 1024.

    :raises ConfigError: when it is no such text.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--limit-rate {text[:50]!r}: write bytes a second, such as 500K, 20M or 1G")

    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def _api_token(file: Path | None) -> Secret | None:
    if file is not None:
        return read_secret_file(file, on_notice=lambda line: click.echo(f"quaymirror: {line}", err=True))

    token = os.environ.get("QUAY_API_TOKEN")
    return Secret(token, what="QUAY_API_TOKEN") if token else None


def _credentials(username: str | None, *, from_stdin: bool) -> Credentials | None:
    if (username is None) is from_stdin:
        raise ConfigError("--username and --password-stdin go together")

    return Credentials(username, read_secret_stdin(sys.stdin.buffer)) if username is not None else None
