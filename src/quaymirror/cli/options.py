"""Options that several commands share, and how they become a selection and settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from ..catalog.mode import Discovery
from ..errors import ConfigError
from ..oci import Platform
from ..secret import Credentials, Secret, read_secret_file, read_secret_stdin
from ..selection.parse import parse_duration, parse_since
from ..selection.selection import Selection
from ..settings import DEFAULT_SERVER, Options, parse_rate
from ..store.fsops import Fsync
from ..targets.kinds import find_target

# Where a context keeps what was read.
_PASSWORD = "quaymirror.password"  # noqa: S105

F = TypeVar("F", bound=Callable[..., Any])

_SELECTION = (
    click.argument("organization", required=False, metavar="ORG|quay://ORG/GLOB:TAG"),
    click.argument("glob", required=False, metavar="[GLOB]"),
    click.argument("tag", required=False, metavar="[TAG]"),
    click.option("--glob", "globs", metavar="GLOB", multiple=True, help="Repositories that match, too (repeatable)."),
    click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag or a glob for tags (repeatable)."),
    click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out what matches (repeatable)."),
    click.option("--since", metavar="DATE|DURATION", help="Only tags updated since: 2025-04-01, 7d, 12h."),
)
_CAFILE = click.option("--cafile", type=click.Path(path_type=Path), help="CA certificates to trust, PEM.")
_RETRIES = click.option("--retries", type=int, default=5, show_default=True, help="Tries again after a failure.")
_AUTHFILE = click.option(
    "--authfile", type=click.Path(path_type=Path), help="Auth file instead of docker's and podman's."
)
_ALLOW_REALM = click.option(
    "--allow-realm", metavar="HOST", multiple=True, help="Trust this host's token service, too (repeatable)."
)
_CERT_DIR = click.option(
    "--cert-dir", type=click.Path(path_type=Path), help="The same directory for source and target."
)
_TLS_VERIFY = click.option("--tls-verify", type=bool, metavar="BOOL", help="The same for source and target.")
_CLIENT = (_CAFILE, _RETRIES, _AUTHFILE, _ALLOW_REALM, _CERT_DIR, _TLS_VERIFY)
_SERVER = (
    click.option(
        "--server",
        metavar="URL",
        default=DEFAULT_SERVER,
        envvar="QUAYMIRROR_SERVER",
        show_default=True,
        help="The Quay server; http:// means plain HTTP.",
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        envvar="QUAY_API_TOKEN_FILE",
        help="File with an API token; or set QUAY_API_TOKEN.",
    ),
    _CAFILE,
    _RETRIES,
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
    click.option("--allow-empty", is_flag=True, help="A selection without images is no error."),
)
_REGISTRY = (
    click.option(
        "--username", "--src-username", "username", metavar="USER", help="User or robot account for the registry."
    ),
    click.option("--password-stdin", "--src-password-stdin", "password_stdin", is_flag=True, help="Read its password."),
    _AUTHFILE,
    _ALLOW_REALM,
    click.option("--src-cert-dir", type=click.Path(path_type=Path), help="Its certificates: *.crt, *.cert and *.key."),
    click.option("--src-tls-verify", type=bool, metavar="BOOL", help="Whether to verify its certificate."),
    _CERT_DIR,
    _TLS_VERIFY,
)
_TARGET = (
    click.option("--dest-username", metavar="USER", help="User or robot account for a target that is a registry."),
    click.option("--dest-password-stdin", is_flag=True, help="Read its password from standard input."),
    click.option("--dest-cert-dir", type=click.Path(path_type=Path), help="The target's: *.crt, *.cert and *.key."),
    click.option("--dest-tls-verify", type=bool, metavar="BOOL", help="Whether to verify the target's certificate."),
    click.option("--state", type=click.Path(path_type=Path), help="Where runs remember what they pushed.  [XDG state]"),
)


_FOREIGN = click.option(
    "--allow-foreign-layers", is_flag=True, help="Fetch layers that the registry lacks from where manifests say."
)

_USERS = {"src": "username", "dest": "dest_username"}
# Options that are words for a value, and flags that set another option.
_WORDS: dict[str, Callable[[str], object]] = {
    "discovery": Discovery,
    "fsync": Fsync,
    "limit_rate": parse_rate,
}
_FLAGS = {
    "full_check": ("full_check_every", 0.0),
    "no_space_check": ("check_space", False),
    "yes": ("max_delete", 100.0),
}
_PASSWORDS = {"src": "password_stdin", "dest": "dest_password_stdin"}


def selection_options(function: F) -> F:
    """Add the words that select images."""
    return _apply(_SELECTION, function)


def server_options(function: F) -> F:
    """Add the options of the server."""
    return _apply(_SERVER, function)


def registry_options(function: F) -> F:
    """Add the options for pulling."""
    return _apply(_REGISTRY, function)


def foreign_layers_option(function: F) -> F:
    """Add the option that lets layers come from elsewhere."""
    return _FOREIGN(function)


def client_options(function: F) -> F:
    """Add the options of any client, for a command that has no source."""
    return _apply(_CLIENT, function)


def target_options(function: F) -> F:
    """Add the options of a target that is a registry."""
    return _apply(_TARGET, function)


def _apply(decorators: Iterable[Callable[[F], F]], function: F) -> F:
    return reduce(lambda decorated, decorator: decorator(decorated), reversed(list(decorators)), function)


def make_selection(
    organization: str | None,
    glob: str | None,
    tag: str | None,
    *,
    globs: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    since: str | None = None,
) -> Selection:
    """Return the selection that the words mean; `globs` and `tags` are said beside the words.

    :raises ConfigError: when they make no sense.
    """
    if organization is None:
        raise click.UsageError("Missing argument 'ORG'.")

    now = datetime.now(UTC)
    moment = parse_since(since, now=now) if since is not None else None
    if "://" not in organization:
        return Selection(
            organization, _joined(glob, globs, "*"), _joined(tag, tags, "latest"), exclude=exclude, since=moment
        )

    if glob is not None or globs or tags:
        raise ConfigError("a quay:// address says everything: no GLOB or TAG after it")

    return Selection.parse_uri(organization, exclude=exclude, since=moment, now=now)


def _joined(word: str | None, others: tuple[str, ...], default: str) -> str:
    words = others if word is None else (word, *others)
    return ",".join(words) if words else default


def make_settings(**options: Any) -> Options:
    """Return the settings that the options mean, secrets read from where they are; what is None is left to defaults.

    :raises ConfigError: when they make no sense.
    """
    token_file = options.pop("token_file", None)
    users = {side: options.pop(name, None) for side, name in _USERS.items()}
    asked = {side: options.pop(name, False) for side, name in _PASSWORDS.items()}
    if all(asked.values()):
        raise ConfigError("one standard input can't be the password of both registries: put one into an auth file")

    _share(options)
    _spell_out(options)
    return Options.of(
        api_token=_api_token(token_file),
        credentials=_credentials("", users["src"], from_stdin=asked["src"]),
        dest_credentials=_credentials("dest-", users["dest"], from_stdin=asked["dest"]),
        allow_realms=options.pop("allow_realm", ()),
        platforms=tuple(Platform.parse(text) for text in options.pop("platform", ())),
        environment=os.environ,
        **{name: value for name, value in options.items() if value is not None},
    )


def _share(options: dict[str, Any]) -> None:
    """Give what is said for both registries to each of which nothing is said."""
    for name in ("cert_dir", "tls_verify"):
        value = options.pop(name, None)
        for side in ("src", "dest"):
            if options.get(f"{side}_{name}") is None:
                options[f"{side}_{name}"] = value


def _spell_out(options: dict[str, Any]) -> None:
    """Replace words by the values that they stand for."""
    for name, parse in _WORDS.items():
        if options.get(name) is not None:
            options[name] = parse(options[name])

    for name, (setting, value) in _FLAGS.items():
        if options.pop(name, False):
            options[setting] = value


def duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Turn the words of an option into seconds.

    :raises ConfigError: when they are no duration.
    """
    return None if text is None else parse_duration(text).total_seconds()


def grace(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Turn the words of an option into seconds; `0` is none.

    :raises ConfigError: when they are no duration.
    """
    return 0.0 if text == "0" else duration(context, option, text)


def home_at(target: str, state: Path | None) -> Path:
    """Return the directory of what is known of `target`, as given to sync together with --state.

    :raises ConfigError: when it is no target.
    """
    settings = Options.of(state=state, environment=os.environ)
    return find_target(target, settings).state_directory(settings)


def layout_at(target: str) -> Path:
    """Return the path of the OCI image layout that the words of a command name.

    :raises ConfigError: when there is none.
    """
    path = Path(target.removeprefix("ocidir://"))
    if not (path / "oci-layout").is_file():
        raise ConfigError(f"no OCI image layout at {path}")

    return path


def _api_token(file: Path | None) -> Secret | None:
    if file is not None:
        return read_secret_file(file, on_notice=lambda line: click.echo(f"quaymirror: {line}", err=True))

    token = os.environ.get("QUAY_API_TOKEN")
    return Secret(token, what="QUAY_API_TOKEN") if token else None


def _credentials(side: str, username: str | None, *, from_stdin: bool) -> Credentials | None:
    if (username is None) is from_stdin:
        raise ConfigError(f"--{side}username and --{side}password-stdin go together")

    return Credentials(username, _password()) if username is not None else None


def _password() -> Secret:
    """Read it from standard input, once for all jobs of a command."""
    meta = click.get_current_context().meta
    if _PASSWORD not in meta:
        meta[_PASSWORD] = read_secret_stdin(sys.stdin.buffer)

    password: Secret = meta[_PASSWORD]
    return password
