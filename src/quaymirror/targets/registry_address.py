"""Targets that are registries: what their addresses mean."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from ..errors import ConfigError, InvalidName
from ..http.origin import Origin
from ..oci import Reference, Repository
from ..oci.reference import is_registry_host
from ..selection.selection import Selection
from ..settings import Options

_SCHEME = "registry"
_DEFAULT_PATH = "{org}/{repo}"
_YES, _NO = frozenset({"", "1", "true", "yes"}), frozenset({"0", "false", "no"})


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """A registry and the names that images get there; `{org}`, `{repo}` and `{tag}` stand for each image's own."""

    origin: Origin
    path: str
    tag: str

    def __str__(self) -> str:
        return f"{_SCHEME}://{self.origin.netloc}/{self.path}:{self.tag}"

    @property
    def namespace(self) -> str:
        """What all names begin with: credentials may be kept for it alone."""
        return self.path.partition("{")[0].rpartition("/")[0]

    @property
    def is_one_to_one(self) -> bool:
        """Whether each image has a place of its own there, whatever organization it comes from."""
        return "{org}/{repo}" in self.path and "{tag}" in self.tag

    def place(self, name: str) -> Reference:
        """Return where the image called `name` (`kolla/nova-api:2025.1-debian`) goes.

        :raises InvalidName: when that can't be a name.
        """
        full_name, _, tag = name.rpartition(":")
        organization, _, repository = full_name.partition("/")
        values = {"{org}": organization, "{repo}": repository, "{tag}": tag}
        return Reference(Repository(self.origin.netloc, _filled(self.path, values)), _filled(self.tag, values))


def is_address(text: str) -> bool:
    """Tell whether `text` names a registry."""
    return text.partition("://")[:2] == (_SCHEME, "://")


def parse_address(text: str) -> RegistryAddress:
    """Return what `text`, `registry://HOST[:PORT][/PREFIX][?insecure=true]`, means.

    Without `{repo}` the path is a prefix of `{org}/{repo}:{tag}`.

    :raises ConfigError: when it makes no sense.
    """
    rest, _, query = text.partition("://")[2].partition("?")
    host, _, path = rest.partition("/")
    if "@" in host:
        raise ConfigError("credentials have no place in an address: --dest-username, or an auth file")

    if not is_registry_host(host):
        raise ConfigError(f"not a registry: {host[:150]!r}; write registry://HOST[:PORT][/PREFIX]")

    path, _, tag = path.strip("/").partition(":")
    if "{repo}" not in path + tag:
        if tag:
            raise ConfigError(f"{text[:150]!r} is one place for all images: put {{repo}} into it")

        path = f"{path}/{_DEFAULT_PATH}".lstrip("/")

    scheme = "http" if _is_insecure(query) else "https"
    address = RegistryAddress(Origin.of(f"{scheme}://{host}"), path, tag or "{tag}")
    _check_names(address, "org/repo:tag", text)
    return address


def check_selection(address: RegistryAddress, selection: Selection, settings: Options) -> None:
    """Refuse what can be known to go wrong before the first request.

    :raises ConfigError: when images would be pushed to where they come from, or get names that can't be.
    """
    if not selection.is_one_tag and "{tag}" not in address.path + address.tag:
        raise ConfigError(f"{address} is one place for several tags: put {{tag}} into it")

    name = f"{selection.organization}/repo:{selection.tags[0] if selection.is_one_tag else 'tag'}"
    place = _check_names(address, name, str(address))
    if address.origin.netloc == settings.source.origin.netloc and place.name == name:
        raise ConfigError(f"{address} is where the images come from")


def _is_insecure(query: str) -> bool:
    options = dict(parse_qsl(query, keep_blank_values=True))
    value = options.pop("insecure", "false").lower()
    if options:
        raise ConfigError(f"registry:// has no option {min(options)[:50]!r}")

    if value not in _YES | _NO:
        raise ConfigError("insecure is true or false")

    return value in _YES


def _check_names(address: RegistryAddress, name: str, text: str) -> Reference:
    try:
        return address.place(name)
    except InvalidName as error:
        raise ConfigError(f"{text[:150]!r} gives images no usable names: {error.message}") from None


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)

    return text
