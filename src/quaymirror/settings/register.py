"""The register of options: those of the groups, the words of a selection, and options that set others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..oci.reference import is_registry_host
from ..secret import Credentials, Secret
from ..selection.labels import LabelCondition
from ..selection.layouts import select_images
from ..selection.parse import parse_duration, parse_since
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..shards.share import Share
from . import DEFAULT_TARGET, GROUPS, OutputOptions
from .spec import Heading, OptionSpec, OptionType, declare, existing_directory, existing_file, writable_file


def list_file(path: Path) -> None:
    """Raise `ConfigError` if `path` is neither a regular file nor `-`, standard input."""
    if str(path) != "-":
        existing_file(path)


def registry_host(text: str) -> None:
    """Raise `ConfigError` if `text` is no HOST[:PORT]."""
    if not is_registry_host(text):
        raise ConfigError(f"not a registry: {text[:100]!r}; write HOST[:PORT]")


_SELECTING = ("sync", "list", "info")
_SELECT = {"heading": Heading.SELECTION, "only": True, "commands": _SELECTING}
# A job has one of these keys.
SUBJECTS = ("organization", "source", "images")
# The selection of a job.
SELECTION = (
    OptionSpec(
        name="organization",
        help="Organization on the server; a job has this, `source` or `images`.",
        has_variable=False,
        accept=Selection,
    ),
    OptionSpec(
        name="source",
        help="Address of another source, without GLOB and TAG: harbor://HOST/PROJECT, for instance.",
        has_variable=False,
        accept=lambda text: Selection.parse_uri(text),
    ),
    declare(
        "--glob GLOB",
        "Select repositories that match this, too; all if none is given.",
        (),
        name="globs",
        key="repositories",
        accept=lambda text: Selection("org", (text,)),
        **_SELECT,
    ),
    declare(
        "--tag TAG",
        "Select this tag, too, or tags that match a glob.",
        (),
        name="tags",
        key="tags",
        accept=lambda text: Selection("org", tags=(text,)),
        **_SELECT,
    ),
    declare(
        "--exclude GLOB",
        "Leave out repositories that match.",
        (),
        common=True,
        accept=lambda text: Selection("org", exclude=(text,)),
        **(_SELECT | {"commands": ("sync", "list", "info", "push")}),
    ),
    declare(
        "--select GLOB:TAG",
        "Of a layout, select only images whose whole names match.",
        (),
        key="select",
        accept=lambda text: select_images(SourceAddress("ocidir"), (text,)),
        **(_SELECT | {"commands": ("sync", "list", "info", "push", "export")}),
    ),
    declare(
        "--exclude-tag GLOB",
        "Leave out tags that match.",
        (),
        name="exclude_tags",
        accept=lambda text: Selection("org", tags=(text,)),
        **_SELECT,
    ),
    declare(
        "--newest N",
        "Only the N newest of the selected tags of each repository.",
        kind=OptionType.NUMBER,
        least=1,
        most=10_000,
        **_SELECT,
    ),
    declare(
        "--image-label CONDITION",
        "Only images with this label: KEY, KEY=GLOB or KEY!=GLOB.",
        (),
        name="labels",
        accept=LabelCondition.parse,
        **_SELECT,
    ),
    declare(
        "--images FILE",
        "Select the images of a list; - is standard input.",
        kind=OptionType.PATH,
        common=True,
        has_variable=False,
        on_disk=list_file,
        **(_SELECT | {"commands": (*_SELECTING, "check")}),
    ),
    declare(
        "--default-registry HOST",
        "Registry of lines of a list that name none; default: the server.",
        accept=registry_host,
        **(_SELECT | {"commands": (*_SELECTING, "check")}),
    ),
    declare(
        "--since DATE|DURATION",
        "Only tags updated since: 2025-04-01, 7d, 12h.",
        common=True,
        accept=lambda text: parse_since(text, now=datetime.now(UTC)),
        **_SELECT,
    ),
)

_FILE = {"kind": OptionType.PATH, "on_disk": existing_file}
_ONLY_HERE = {**_FILE, "heading": Heading.SELECTION, "only": True, "in_file": False}
# Options without a field in a group.
_WORDS = (
    declare(
        "--from-lock FILE",
        "Mirror exactly the images of a lock file.",
        commands=("sync",),
        has_variable=False,
        **_ONLY_HERE,
    ),
    declare(
        "--plan-only FILE",
        "Write a plan for shards, and mirror nothing.",
        commands=("sync",),
        has_variable=False,
        **(_ONLY_HERE | {"on_disk": writable_file, "heading": Heading.SHARDS}),
    ),
    declare(
        "--plan FILE",
        "Mirror the share of one shard of a plan.",
        commands=("sync",),
        has_variable=False,
        **(_ONLY_HERE | {"heading": Heading.SHARDS}),
    ),
    declare(
        "--shard I/N",
        "The shard: I from 0, of N.",
        commands=("sync",),
        heading=Heading.SHARDS,
        only=True,
        in_file=False,
        parse=Share.parse,
    ),
    declare(
        "--shard-timeout DURATION",
        "Bring the blobs of another shard after this time without a sign of it.",
        600.0,
        shown_default="10m",
        commands=("sync",),
        heading=Heading.SHARDS,
        only=True,
        in_file=False,
        parse=lambda text: parse_duration(text).total_seconds(),
    ),
    declare(
        "--config FILE",
        "The configuration file.",
        shown_default="quaymirror.toml",
        commands=("run", "config", "history", "status", "remove", "prune"),
        common=True,
        **_ONLY_HERE,
    ),
    declare(
        "--to TARGET",
        "The target: PATH, registry://HOST, s3://BUCKET, …",
        DEFAULT_TARGET,
        heading=Heading.TARGET,
        name="target",
        kind=OptionType.TARGET,
        commands=("history",),
        common=True,
    ),
)

_PULL = {"heading": Heading.SOURCE, "commands": ("list", "info", "verify", "prune")}
_EITHER = {"heading": Heading.SOURCE, "commands": ("list", "info", "verify", "prune", "check")}
_PUSH = {"heading": Heading.REGISTRY_TARGET, "commands": ("verify", "prune", "check")}
# Options that give their value to a field of each side.
_BOTH = (
    declare(
        "--cert-dir PATH",
        "Directory with certificates for source and target.",
        kind=OptionType.PATH,
        on_disk=existing_directory,
        **_EITHER,
    ),
    declare(
        "--tls-verify BOOL", "Whether to verify the certificates of source and target.", kind=OptionType.FLAG, **_EITHER
    ),
)

# Options of credentials, which are read from files and standard input when a command begins.
_STDIN = {"default": False, "kind": OptionType.FLAG, "has_variable": False, "in_file": False}
_USER = {"accept": lambda text: Credentials(text, Secret("-")), "in_file": False}
_CREDENTIALS = (
    declare(
        "--token-file FILE",
        "File with an API token; or set QUAY_API_TOKEN.",
        heading=Heading.SOURCE,
        variables=("QUAY_API_TOKEN_FILE",),
        commands=("list", "info", "verify"),
        common=True,
        **_FILE,
    ),
    declare(
        "--src-username, --username USER", "User or robot account for the registry.", common=True, **_PULL, **_USER
    ),
    declare(
        "--src-password-stdin, --password-stdin",
        "Read the password of --username from standard input.",
        **_PULL,
        **_STDIN,
    ),
    declare("--dest-username USER", "User or robot account for a target that is a registry.", **_PUSH, **_USER),
    declare("--dest-password-stdin", "Read the password of --dest-username from standard input.", **_PUSH, **_STDIN),
)

_FIELDS = tuple(spec for group in GROUPS.values() for spec in group.specs())
_SHORTHANDS = tuple(spec.shorthand for spec in _FIELDS if spec.shorthand is not None)
REGISTER: Mapping[str, OptionSpec] = {
    spec.name: spec for spec in (*SELECTION, *_WORDS, *_FIELDS, *_SHORTHANDS, *_BOTH, *_CREDENTIALS)
}

# Options of `sync` under these headings are those of `push`, too; of the others, those that say so.
_PUSHED = frozenset({Heading.TARGET, Heading.REGISTRY_TARGET, Heading.OUTPUT})


def options_of(command: str) -> list[OptionSpec]:
    """Return the options that a command has on the command line."""
    return [spec for spec in REGISTER.values() if spec.belongs_to(command) or (command == "push" and _is_pushed(spec))]


def _is_pushed(spec: OptionSpec) -> bool:
    is_argument = spec.kind is OptionType.TARGET
    return spec.belongs_to("sync") and spec.heading in _PUSHED and not is_argument


OUTPUTS = {spec.name for spec in OutputOptions.specs()}
# Options in the tables of a configuration file.
RUN_TABLE = tuple(spec for spec in REGISTER.values() if spec.in_file and spec.name in OUTPUTS)
_NO_OPTIONS_OF_JOBS = OUTPUTS | {spec.name for spec in SELECTION}
JOB_TABLE = tuple(spec for spec in REGISTER.values() if spec.in_file and spec.name not in _NO_OPTIONS_OF_JOBS)


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
