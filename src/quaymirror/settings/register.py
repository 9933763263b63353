"""The register of options: those of the groups, the words of a selection, and options that set others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..secret import Credentials, Secret
from ..selection.parse import parse_since
from ..selection.selection import Selection
from .groups import DEFAULT_TARGET, GROUP_OF, GROUPS, OutputOptions
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
        kind=OptionType.TARGET,
        default=DEFAULT_TARGET,
        metavar="TARGET",
        heading=Heading.TARGET,
        common=True,
        help="Where to store images: PATH, registry://HOST",
    ),
)

_SHORTHANDS = (
    OptionSpec(
        name="no_space_check",
        spellings=("--no-space-check",),
        kind=OptionType.FLAG,
        default=False,
        sets={"check_space": False},
        heading=Heading.TARGET,
        help="Don't check free disk space first.",
    ),
    OptionSpec(
        name="full_check",
        spellings=("--full-check",),
        kind=OptionType.FLAG,
        default=False,
        sets={"full_check_every": 0.0},
        heading=Heading.LIMITS,
        help="Recheck every tag in this run.",
    ),
    OptionSpec(
        name="yes",
        spellings=("--yes",),
        kind=OptionType.FLAG,
        default=False,
        sets={"max_delete": 100.0},
        heading=Heading.PRUNING,
        has_variable=False,
        in_file=False,
        help="Prune, no matter how many images are removed.",
    ),
    OptionSpec(
        name="cert_dir",
        spellings=("--cert-dir",),
        kind=OptionType.PATH,
        shared=("src_cert_dir", "dest_cert_dir"),
        on_disk=existing_directory,
        heading=Heading.SOURCE,
        help="Directory with certificates for source and target.",
    ),
    OptionSpec(
        name="tls_verify",
        spellings=("--tls-verify",),
        kind=OptionType.FLAG,
        metavar="BOOL",
        shared=("src_tls_verify", "dest_tls_verify"),
        heading=Heading.SOURCE,
        help="Whether to verify the certificates of source and target.",
    ),
)

# Options of credentials: their values are read from files and standard input when a command begins.
_CREDENTIALS = (
    OptionSpec(
        name="token_file",
        spellings=("--token-file",),
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
        accept=lambda text: Credentials(text, Secret("-")),
        metavar="USER",
        heading=Heading.REGISTRY_TARGET,
        in_file=False,
        help="User or robot account for a target that is a registry.",
    ),
    OptionSpec(
        name="dest_password_stdin",
        spellings=("--dest-password-stdin",),
        kind=OptionType.FLAG,
        default=False,
        heading=Heading.REGISTRY_TARGET,
        has_variable=False,
        in_file=False,
        help="Read its password from standard input.",
    ),
)

REGISTER: Mapping[str, OptionSpec] = {
    spec.name: spec
    for spec in (
        *SELECTION,
        *_WORDS,
        *(spec for group in GROUPS.values() for spec in specs_of(group)),
        *_SHORTHANDS,
        *_CREDENTIALS,
    )
}

_RUN_NAMES = {spec.name for spec in specs_of(OutputOptions)}
# Options in the tables of a configuration file.
RUN_TABLE = tuple(spec for spec in REGISTER.values() if spec.in_file and spec.name in _RUN_NAMES)
JOB_TABLE = tuple(
    spec for spec in REGISTER.values() if spec.in_file and spec.name not in _RUN_NAMES and spec not in SELECTION
)


def field_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields that `given`, values by the names of options, comes to; None is no value."""
    values = {name: value for name, value in given.items() if name in GROUP_OF and value not in (None, ())}
    for spec in _SHORTHANDS:
        if spec.sets and given.get(spec.name):
            values |= spec.sets
        elif spec.shared and given.get(spec.name) is not None:
            values |= {name: given[spec.name] for name in spec.shared if name not in values}

    return values
