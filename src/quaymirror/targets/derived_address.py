"""Addresses of derived images, the outputs of occystrap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from ..errors import ConfigError
from ..oci import Platform, Reference
from ..oci.reference import is_registry_host, is_repository_name, is_tag
from ..selection.selection import Selection
from ..settings import Options
from ..values import dataclass
from .placeholders import fill, values_of

if TYPE_CHECKING:
    from ..emit.job import Destination, Option

_ALIASES = {"directory": "dir", "file": "tar"}
# The options of each output, without credentials: every process can read a command line.
_OPTIONS = {
    "dir": {"unique_names", "expand"},
    "tar": {"name"},
    "docker": {"socket"},
    "registry": {"insecure", "compression", "max_workers"},
    "oci": set[str](),
    "mounts": set[str](),
}
_IN_FILES = {"dir", "tar", "oci", "mounts"}
_WORDS: Mapping[str, Option] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DEFAULT_PLATFORM = Platform("linux", "amd64")


@dataclass(frozen=True, slots=True)
class DerivedAddress:
    """A parsed address of occystrap; `{repo}` in `path` or `host` stands for that of each image.

    `directory` is the common directory of all files, or that of the state if the target is elsewhere.
    """

    text: str
    scheme: str
    host: str
    path: str
    options: Mapping[str, Option]
    filters: tuple[str, ...]
    platform: Platform
    directory: Path
    realms: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.text

    @property
    def shares_layers(self) -> bool:
        """Return True if the target keeps layers that other images can use."""
        return self.scheme == "dir" and not self.split_filters[1]

    @property
    def split_filters(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The filters whose results images share, and the others; see `emit.job.split_filters`."""
        from ..emit.job import split_filters

        return split_filters(self.filters)

    @property
    def recipe(self) -> str:
        """Everything apart from the image that determines the result: if it changes, images are derived again."""
        from importlib.metadata import version  # only if it is needed: it takes 15 ms

        by = version("occystrap") if self.filters else ""
        return json.dumps([self.scheme, dict(self.options), self.filters, str(self.platform), by], sort_keys=True)

    def destination(self, reference: Reference) -> Destination:
        """Return the destination of `reference`."""
        from ..emit.job import Destination

        values = values_of(f"{reference.repository.name}:{reference.tag or ''}")
        host, path = fill(self.host, values), fill(self.path, values)
        options = dict(self.options)
        if "name" in options:
            options["name"] = fill(str(options["name"]), values)

        return Destination(self.scheme, host, path, options, self.realms)


def is_derived(text: str, options: Options) -> bool:
    """Return True if `text` names an output of occystrap; a `registry://` is one only if images are changed for it."""
    scheme, separator, rest = text.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    changed = bool(options.target.filters) or "compression=" in rest.partition("?")[2]
    return bool(separator) and scheme in _OPTIONS and (scheme != "registry" or changed)


def parse_derived(text: str, selection: Selection, options: Options) -> DerivedAddress:
    """Return what the address `text` of occystrap means for `selection`.

    :raises ConfigError: if it is invalid, can't tell two images apart, or needs `--allow-extract`.
    """
    if any(pin.tag is None for pin in selection.pinned):
        raise ConfigError(f"{text[:100]} needs a tag for each image: {selection} selects one by its digest alone")

    scheme, _, rest = text.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    rest, _, query = rest.partition("?")
    if "#" in text or not text.isprintable():
        raise ConfigError(f"the target {text[:100]!r} contains a character that is not allowed in an address")

    host, path = _host_and_path(scheme, rest)
    # With rules for names, only the name of each image in the target tells its parts.
    if not options.target.renames and ("{org}" in host + path or "{tag}" in host + path):
        organization = {"{org}": selection.organization} if selection.organization else {}
        values = organization | ({"{tag}": selection.tags[0]} if selection.is_one_tag else {})
        host, path = fill(host, values), fill(path, values)

    _check_elsewhere(host, path, selection, options)
    given = _options(scheme, query)
    _check_told_apart(scheme, host + path, given, selection)
    _check_name(given, selection)
    _check_extraction(scheme, path, given, options)
    directory = _directory_before(path, scheme) if scheme in _IN_FILES else options.state_directory(text)
    filters, realms = options.target.filters, frozenset(options.client.allow_realms)
    return DerivedAddress(text, scheme, host, path, given, filters, _platform(options), directory, realms)


def _host_and_path(scheme: str, rest: str) -> tuple[str, str]:
    """Split as occystrap does: apparent hosts, except for `localhost`, are the start of a relative path."""
    host, slash, path = rest.partition("/")
    path = unquote(slash + path)
    if scheme not in _IN_FILES:
        if scheme == "registry" and not host:
            raise ConfigError("registry:// needs a host: registry://HOST[:PORT][/PREFIX]")

        return host, _repository_path(path) if scheme == "registry" else path

    if host != "localhost":
        path = host + path

    if not path.strip("/"):
        raise ConfigError(f"{scheme}:// needs a path")

    return "", path


def _repository_path(path: str) -> str:
    """Return the path with the same default as for a byte-exact push."""
    if "{repo}" not in path:
        return f"{path.rstrip('/')}/{{org}}/{{repo}}:{{tag}}"

    return path if ":" in path else f"{path}:{{tag}}"


def _options(scheme: str, query: str) -> dict[str, Option]:
    options = {key: _value(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    for secret in ("username", "password"):
        if secret in options:
            raise ConfigError(f"{secret} is not allowed in an address: set OCCYSTRAP_{secret.upper()}")

    unknown = sorted(options.keys() - _OPTIONS[scheme])
    if unknown:
        raise ConfigError(f"{scheme}:// has no option {unknown[0][:50]!r}")

    if options.get("compression", "gzip") not in ("gzip", "zstd"):
        raise ConfigError("compression is gzip or zstd")

    if scheme == "dir":
        if options.get("unique_names") is False:
            raise ConfigError("without unique_names the images of a selection overwrite each other's manifest")

        options["unique_names"] = True

    return options


def _value(text: str) -> Option:
    number = int(text) if text.isascii() and text.isdigit() else text
    return _WORDS.get(text.lower(), number)


def _check_elsewhere(host: str, path: str, selection: Selection, options: Options) -> None:
    """Refuse to replace the source: the next run would derive a derived image again."""
    organization = selection.organization or "org"
    image = fill(path, {"{org}": organization, "{repo}": "repo", "{tag}": "tag"}).strip("/")
    tag = selection.tags[0] if selection.is_one_tag else "tag"
    names = {f"{organization}/repo:{one}" for one in (tag, "tag")}
    if host.lower() == options.source.address_of(selection).registry_name and image in names:
        raise ConfigError(f"registry://{host}{path} is the source of the images: name another target")


def _check_told_apart(scheme: str, place: str, options: Mapping[str, Option], selection: Selection) -> None:
    if scheme not in ("tar", "oci", "mounts"):
        return

    if not selection.is_one_repository and "{repo}" not in place:
        raise ConfigError(f"{scheme}://{place} is the same for all images of {selection}: add {{repo}} to it")

    if not selection.is_one_tag and "{tag}" not in place:
        raise ConfigError(f"{scheme}://{place} is the same for all tags of {selection}: add {{tag}} to it")


def _check_name(given: Mapping[str, Option], selection: Selection) -> None:
    """Check the name that images get in their archives."""
    if "name" not in given:
        return

    template = str(given["name"])
    form = "write [REGISTRY/]{org}/{repo}:{tag}"
    name, _, tag = fill(template, {"{org}": "org", "{repo}": "repo", "{tag}": "tag"}).rpartition(":")
    host, slash, rest = name.partition("/")
    has_host = bool(slash) and ("." in host or ":" in host or host == "localhost") and is_registry_host(host)
    if not (is_tag(tag) and is_repository_name(rest if has_host else name)):
        raise ConfigError(f"not a name for images: {template[:150]!r}; {form}")

    if ("{repo}" not in template and not selection.is_one_repository) or (
        "{tag}" not in template and not selection.is_one_tag
    ):
        raise ConfigError(f"{template[:150]!r} is the same for several images of {selection}; {form}")


def _check_extraction(scheme: str, path: str, given: Mapping[str, Option], options: Options) -> None:
    if scheme not in ("oci", "mounts") and not given.get("expand"):
        return

    if not options.target.allow_extract:
        raise ConfigError(
            f"{scheme}://{path} unpacks images with code that does not defend itself against hostile ones: "
            "pass --allow-extract if you trust all of them"
        )

    if "{repo}" not in path:
        raise ConfigError(f"{scheme}://{path} needs a directory per image: add {{repo}} to it")


def _platform(options: Options) -> Platform:
    platforms = options.discovery.platforms or (_DEFAULT_PLATFORM,)
    if len(platforms) > 1:
        raise ConfigError("a derived image is for one platform: pass --platform once")

    return platforms[0]


def _has_placeholder(part: str) -> bool:
    return any(placeholder in part for placeholder in ("{org}", "{repo}", "{tag}"))


def _directory_before(path: str, scheme: str) -> Path:
    """Return the common directory of all images: neither a placeholder nor the name of a file is in it."""
    parts = Path(path).parts
    common = next((number for number, part in enumerate(parts) if _has_placeholder(part)), len(parts))
    directory = Path(*parts[:common])
    return directory.parent if common == len(parts) and scheme != "dir" else directory
