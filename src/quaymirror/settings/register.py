"""The register of options: those of the groups, the words of a selection, and options that set others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..secret import Credentials, Secret
from ..selection.parse import parse_since
from ..selection.selection import Selection
from .groups import DEFAULT_TARGET, GROUPS, OutputOptions
from .spec import Heading, OptionSpec, OptionType, existing_directory, existing_file, specs_of

# What a configuration file says of a selection.
SELECTION = (
    OptionSpec(
        name="organization",
        help="Organization on the server.",
        heading=Heading.SELECTION,
        has_variable=False,
        required=True,
        accept=Selection,
    ),
    OptionSpec(
        name="globs",
        spellings=("--glob",),
        commands=("sync", "list", "info"),
        only=True,
        key="repositories",
        many=True,
        default=(),
        metavar="GLOB",
        heading=Heading.SELECTION,
        accept=lambda text: Selection("org", (text,)),
        help="Select repositories that match this, too; all if none is given.",
    ),
    OptionSpec(
        name="tags",
        spellings=("--tag",),
        commands=("sync", "list", "info"),
        only=True,
        key="tags",
        many=True,
        default=(),
        metavar="TAG",
        heading=Heading.SELECTION,
        accept=lambda text: Selection("org", tags=(text,)),
        help="Select this tag, too, or tags that match a glob.",
    ),
    OptionSpec(
        name="exclude",
        spellings=("--exclude",),
        commands=("sync", "list", "info"),
        only=True,
        many=True,
        default=(),
        metavar="GLOB",
        heading=Heading.SELECTION,
        common=True,
        accept=lambda text: Selection("org", exclude=(text,)),
        help="Leave out repositories that match.",
    ),
    OptionSpec(
        name="since",
        spellings=("--since",),
        commands=("sync", "list", "info"),
        only=True,
        metavar="DATE|DURATION",
        heading=Heading.SELECTION,
        common=True,
        accept=lambda text: parse_since(text, now=datetime.now(UTC)),
        help="Only tags updated since: 2025-04-01, 7d, 12h.",
    ),
)

_WORDS = (
    OptionSpec(
        name="from_lock",
        spellings=("--from-lock",),
        commands=("sync",),
        only=True,
        kind=OptionType.PATH,
        on_disk=existing_file,
        metavar="FILE",
        heading=Heading.SELECTION,
        has_variable=False,
        in_file=False,
        help="Mirror exactly the images of a lock file.",
    ),
    OptionSpec(
        name="config",
        spellings=("--config",),
        commands=("run", "config"),
        only=True,
        kind=OptionType.PATH,
        on_disk=existing_file,
        shown_default="quaymirror.toml",
        metavar="FILE",
        heading=Heading.SELECTION,
        in_file=False,
        common=True,
        help="The configuration file.",
    ),
    OptionSpec(
        name="target",
        spellings=("--to",),
        commands=("history",),
        kind=OptionType.TARGET,
        default=DEFAULT_TARGET,
        metavar="TARGET",
        heading=Heading.TARGET,
        common=True,
        help="Where to store images: PATH, registry://HOST",
    ),
)

# Options that give their value to a field of each side.
_BOTH = (
    OptionSpec(
        name="cert_dir",
        spellings=("--cert-dir",),
        kind=OptionType.PATH,
        on_disk=existing_directory,
        commands=("info", "verify"),
        heading=Heading.SOURCE,
        help="Directory with certificates for source and target.",
    ),
    OptionSpec(
        name="tls_verify",
        spellings=("--tls-verify",),
        kind=OptionType.FLAG,
        metavar="BOOL",
        commands=("info", "verify"),
        heading=Heading.SOURCE,
        help="Whether to verify the certificates of source and target.",
    ),
)

# Options of credentials: their values are read from files and standard input when a command begins.
_CREDENTIALS = (
    OptionSpec(
        name="token_file",
        spellings=("--token-file",),
        commands=(
            "list",
            "info",
            "verify",
        ),
        variables=("QUAY_API_TOKEN_FILE",),
        kind=OptionType.PATH,
        on_disk=existing_file,
        metavar="FILE",
        heading=Heading.SOURCE,
        common=True,
        help="File with an API token; or set QUAY_API_TOKEN.",
    ),
    OptionSpec(
        name="username",
        spellings=("--username", "--src-username"),
        commands=(
            "info",
            "verify",
        ),
        accept=lambda text: Credentials(text, Secret("-")),
        metavar="USER",
        heading=Heading.SOURCE,
        in_file=False,
        common=True,
        help="User or robot account for the registry.",
    ),
    OptionSpec(
        name="password_stdin",
        spellings=("--password-stdin", "--src-password-stdin"),
        commands=(
            "info",
            "verify",
        ),
        kind=OptionType.FLAG,
        default=False,
        heading=Heading.SOURCE,
        has_variable=False,
        in_file=False,
        help="Read its password from standard input.",
    ),
    OptionSpec(
        name="dest_username",
        spellings=("--dest-username",),
        commands=("verify",),
        accept=lambda text: Credentials(text, Secret("-")),
        metavar="USER",
        heading=Heading.REGISTRY_TARGET,
        in_file=False,
        help="User or robot account for a target that is a registry.",
    ),
    OptionSpec(
        name="dest_password_stdin",
        spellings=("--dest-password-stdin",),
        commands=("verify",),
        kind=OptionType.FLAG,
        default=False,
        heading=Heading.REGISTRY_TARGET,
        has_variable=False,
        in_file=False,
        help="Read its password from standard input.",
    ),
)

_FIELDS = tuple(spec for group in GROUPS.values() for spec in specs_of(group))
_SHORTHANDS = tuple(spec.shorthand for spec in _FIELDS if spec.shorthand is not None)
REGISTER: Mapping[str, OptionSpec] = {
    spec.name: spec for spec in (*SELECTION, *_WORDS, *_FIELDS, *_SHORTHANDS, *_BOTH, *_CREDENTIALS)
}

_OUTPUTS = {spec.name for spec in specs_of(OutputOptions)}
# Options in the tables of a configuration file.
RUN_TABLE = tuple(spec for spec in REGISTER.values() if spec.in_file and spec.name in _OUTPUTS)
JOB_TABLE = tuple(
    spec for spec in REGISTER.values() if spec.in_file and spec.name not in _OUTPUTS and spec not in SELECTION
)


def field_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields that `given`, values by the names of options, comes to; None is no value."""
    values = {}
    for spec in _FIELDS:
        value = given.get(spec.name)
        if spec.shorthand is not None and given.get(spec.shorthand.name):
            value = spec.shorthand.means
        elif value is None and spec.both:
            value = given.get(spec.both)

        if value not in (None, ()):
            values[spec.name] = value

    return values
