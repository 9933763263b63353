"""Addresses of target registries."""

from __future__ import annotations

from functools import lru_cache

from ..errors import ConfigError, InvalidName
from ..http.origin import Origin
from ..oci import Digest, Reference, Repository
from ..oci.reference import is_registry_host
from ..selection.selection import Selection
from ..selection.source import SourceAddress, is_insecure
from ..values import dataclass
from .placeholders import fill, values_of

_SCHEME = "registry"
_DEFAULT_PATH = "{org}/{repo}"


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """A registry and the names of images in it; `{org}`, `{repo}` and `{tag}` stand for those of each image."""

    origin: Origin
    path: str
    tag: str

    def __str__(self) -> str:
        return f"{_SCHEME}://{self.origin.netloc}/{self.path}:{self.tag}"

    @property
    def namespace(self) -> str:
        """The common start of all names: credentials may be limited to it."""
        return self.path.partition("{")[0].rpartition("/")[0]

    @property
    def repository(self) -> str:
        """The repository that all images have in common, "" if each has its own."""
        return "" if "{" in self.path or "{repo}" in self.tag else self.path

    @property
    def is_one_to_one(self) -> bool:
        """Return True if no two images, of any organization, can have the same name."""
        return "{org}/{repo}" in self.path and "{tag}" in self.tag

    def place(self, name: str) -> Reference:
        """Return the name in this registry of the image `name` (`kolla/nova-api:2025.1-debian`).

        An image without a tag (`kolla/nova-api@sha256:…`) has none there either.

        :raises InvalidName: if it is no valid name.
        """
        return _place(self.origin.netloc, self.path, self.tag, name)


@lru_cache(maxsize=4096)
def _place(host: str, path: str, tag: str, name: str) -> Reference:
    # Every request about an image needs it.
    repository, mark, digest = name.partition("@")
    if mark:
        return Reference(Repository(host, fill(path, values_of(f"{repository}:"))), None, Digest.parse(digest))

    values = values_of(name)
    return Reference(Repository(host, fill(path, values)), fill(tag, values))


def parse_address(text: str) -> RegistryAddress:
    """Return the address `text`, `registry://HOST[:PORT][/PREFIX][?insecure=true]`.

    Without `{repo}` the path is a prefix of `{org}/{repo}:{tag}`, unless `:{tag}` follows: then it is one repository.

    :raises ConfigError: if it is no valid address.
    """
    rest, _, query = text.partition("://")[2].partition("?")
    host, _, path = rest.partition("/")
    if "@" in host:
        raise ConfigError("credentials are not allowed in an address: use --dest-username or an auth file")

    if not is_registry_host(host):
        raise ConfigError(f"not a registry: {host[:150]!r}; write registry://HOST[:PORT][/PREFIX]")

    path, _, tag = path.strip("/").partition(":")
    if "{repo}" not in path + tag:
        if not tag:
            path = f"{path}/{_DEFAULT_PATH}".lstrip("/")
        elif "{tag}" not in tag:
            raise ConfigError(f"{text[:150]!r} gives all images the same name: add {{repo}} to it")

    scheme = "http" if is_insecure(_SCHEME, query) else "https"
    address = RegistryAddress(Origin.of(f"{scheme}://{host}"), path, tag or "{tag}")
    _check_names(address, "org/repo:tag", text)
    return address


def check_selection(address: RegistryAddress, selection: Selection, source: SourceAddress) -> None:
    """Refuse a selection whose images can't have a name each at `address`.

    :raises ConfigError: if they have no valid names, share them, or would replace their own source.
    """
    if address.repository and not (selection.is_one_repository or source.is_layout):
        raise ConfigError(f"{address} gives all repositories the same name: add {{repo}} to it")

    if not selection.is_one_tag and "{tag}" not in address.path + address.tag:
        raise ConfigError(f"{address} gives several tags the same name: add {{tag}} to it")

    name = f"{selection.prefix or 'org/'}repo:{selection.tags[0] if selection.is_one_tag else 'tag'}"
    place = _check_names(address, name, str(address))
    if address.origin.netloc == source.registry_name and place.name == name:
        raise ConfigError(f"{address} is the source of the images: name another target")


def _check_names(address: RegistryAddress, name: str, text: str) -> Reference:
    try:
        return address.place(name)
    except InvalidName as error:
        raise ConfigError(f"{text[:150]!r} gives images no usable names: {error.message}") from None
