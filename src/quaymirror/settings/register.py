"""The register of options: those of the groups, the words of a selection, and options that set others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..secret import Credentials, Secret
from ..selection.parse import parse_since
from ..selection.selection import Selection
from .groups import DEFAULT_TARGET, GROUPS, OutputOptions
from .spec import Heading, OptionSpec, OptionType, declare, existing_directory, existing_file, specs_of

_SELECT = {"only": True, "commands": ("sync", "list", "info")}
# The selection of a job.
SELECTION = (
    OptionSpec(
        name="organization",
        help="Organization on the server.",
        has_variable=False,
        required=True,
        accept=Selection,
    ),
    declare(
        "--glob GLOB",
        Heading.SELECTION,
        "Select repositories that match this, too; all if none is given.",
        (),
        name="globs",
        key="repositories",
        accept=lambda text: Selection("org", (text,)),
        **_SELECT,
    ),
    declare(
        "--tag TAG",
        Heading.SELECTION,
        "Select this tag, too, or tags that match a glob.",
        (),
        name="tags",
        key="tags",
        accept=lambda text: Selection("org", tags=(text,)),
        **_SELECT,
    ),
    declare(
        "--exclude GLOB",
        Heading.SELECTION,
        "Leave out repositories that match.",
        (),
        common=True,
        accept=lambda text: Selection("org", exclude=(text,)),
        **_SELECT,
    ),
    declare(
        "--since DATE|DURATION",
        Heading.SELECTION,
        "Only tags updated since: 2025-04-01, 7d, 12h.",
        common=True,
        accept=lambda text: parse_since(text, now=datetime.now(UTC)),
        **_SELECT,
    ),
)

# Options without a field in a group.
_WORDS = (
    declare(
        "--from-lock FILE",
        Heading.SELECTION,
        "Mirror exactly the images of a lock file.",
        kind=OptionType.PATH,
        on_disk=existing_file,
        commands=("sync",),
        only=True,
        has_variable=False,
        in_file=False,
    ),
    declare(
        "--config FILE",
        Heading.SELECTION,
        "The configuration file.",
        kind=OptionType.PATH,
        on_disk=existing_file,
        shown_default="quaymirror.toml",
        commands=("run", "config"),
        only=True,
        in_file=False,
        common=True,
    ),
    declare(
        "--to TARGET",
        Heading.TARGET,
        "Where to store images: PATH, registry://HOST",
        DEFAULT_TARGET,
        name="target",
        kind=OptionType.TARGET,
        commands=("history",),
        common=True,
    ),
)

# Options that give their value to a field of each side.
_BOTH = (
    declare(
        "--cert-dir PATH",
        Heading.SOURCE,
        "Directory with certificates for source and target.",
        kind=OptionType.PATH,
        on_disk=existing_directory,
        commands=("info", "verify"),
    ),
    declare(
        "--tls-verify BOOL",
        Heading.SOURCE,
        "Whether to verify the certificates of source and target.",
        kind=OptionType.FLAG,
        commands=("info", "verify"),
    ),
)

# Options of credentials, which are read from files and standard input when a command begins.
_STDIN = {"kind": OptionType.FLAG, "has_variable": False, "in_file": False}
_USER = {"accept": lambda text: Credentials(text, Secret("-")), "in_file": False}
_CREDENTIALS = (
    declare(
        "--token-file FILE",
        Heading.SOURCE,
        "File with an API token; or set QUAY_API_TOKEN.",
        variables=("QUAY_API_TOKEN_FILE",),
        kind=OptionType.PATH,
        on_disk=existing_file,
        commands=("list", "info", "verify"),
        common=True,
    ),
    declare(
        "--src-username, --username USER",
        Heading.SOURCE,
        "User or robot account for the registry.",
        commands=("info", "verify"),
        common=True,
        **_USER,
    ),
    declare(
        "--src-password-stdin, --password-stdin",
        Heading.SOURCE,
        "Read its password from standard input.",
        False,
        commands=("info", "verify"),
        **_STDIN,
    ),
    declare(
        "--dest-username USER",
        Heading.REGISTRY_TARGET,
        "User or robot account for a target that is a registry.",
        commands=("verify",),
        **_USER,
    ),
    declare(
        "--dest-password-stdin",
        Heading.REGISTRY_TARGET,
        "Read its password from standard input.",
        False,
        commands=("verify",),
        **_STDIN,
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
