"""Addresses of sources: the kind of a source, and where it is."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from ..errors import ConfigError
from ..http.origin import Origin, authority
from ..oci.reference import is_registry_host
from ..values import dataclass
from .grammar import quoted

# Kinds of sources whose repositories belong to no organization.
_WITHOUT_ORGANIZATIONS = frozenset({"registry", "ocidir"})
_YES, _NO = frozenset({"", "1", "true", "yes"}), frozenset({"0", "false", "no"})
_LAYOUT = "ocidir://"


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source of images: its `kind`, as `catalog.kinds` knows it, and where it is.

    `host` is HOST[:PORT]; `insecure` means plain HTTP. A layout has a `path` instead. `api` and `registry` are URLs of
    other hosts that serve the API and the images, "" if it is `host`. `repository` is the one of images that a layout
    names by a tag alone, "" if nothing names it.
    """

    kind: str
    host: str = ""
    path: str = ""
    insecure: bool = False
    api: str = ""
    registry: str = ""
    repository: str = ""

    @classmethod
    def of_origin(cls, kind: str, origin: Origin) -> SourceAddress:
        """Return the address of the source of `kind` at `origin`."""
        return cls(kind, origin.netloc, insecure=not origin.is_secure)

    @property
    def origin(self) -> Origin:
        """The origin of the host; the source must have one."""
        return Origin.of(f"{'http' if self.insecure else 'https'}://{self.host}")

    @property
    def registry_name(self) -> str:
        """The host in references to its images; `localhost` for those of a layout that don't have one."""
        if self.registry:
            return Origin.of(authority(self.registry)).netloc

        return self.origin.netloc if self.host else "localhost"

    @property
    def has_organizations(self) -> bool:
        """False if the names of repositories are complete without an organization."""
        return self.kind not in _WITHOUT_ORGANIZATIONS

    @property
    def is_layout(self) -> bool:
        """True if the images come from files, and no host is asked."""
        return self.kind == "ocidir"

    def __str__(self) -> str:
        if self.is_layout:
            return f"{_LAYOUT}{self.path}"

        return str(self.origin) if self.kind == "quay" else f"{self.kind}://{self.host}{self.query}"

    @property
    def query(self) -> str:
        """The query of an address of this source."""
        values = {"insecure": "true" if self.insecure else "", "api": self.api, "registry": self.registry}
        given = [f"{key}={value}" for key, value in values.items() if value and self.kind != "quay"]
        return f"?{'&'.join(given)}" if given else ""


def is_source(text: str) -> bool:
    """Return True if `text` is an address of `parse_registry` or `parse_layout`."""
    return text.startswith(("registry://", _LAYOUT))


def parse_layout(text: str) -> SourceAddress:
    """Return the layout that `text` (`ocidir://PATH`) names.

    :raises ConfigError: if it has no path.
    """
    path = text.removeprefix(_LAYOUT)
    if not path or "\0" in path:
        raise ConfigError("ocidir:// needs the path of an OCI image layout")

    return SourceAddress("ocidir", path=path)


def parse_registry(text: str) -> tuple[SourceAddress, str, str]:
    """Return registry, globs and tags of `text` (`registry://HOST[:PORT]/GLOB[:TAG][?insecure=true]`), not checked yet.

    :raises ConfigError: if it has another form.
    """
    scheme, _, rest = text.partition("://")
    form = f"write {scheme}://HOST[:PORT]/GLOB:TAG"
    if "@" in text:
        # Not quoted: a password may stand before it.
        raise ConfigError(f"an '@' in the address: it takes no credentials and no digest; {form}")

    rest, _, query = rest.partition("?")
    host, _, path = rest.partition("/")
    if not is_registry_host(host):
        raise ConfigError(f"not a registry: {quoted(host)}; {form}")

    globs, _, tags = path.partition(":")
    host = Origin.of(f"https://{host}").netloc
    return SourceAddress(scheme, host, insecure=is_insecure(scheme, query)), globs or "*", tags or "latest"


def parse_source(text: str) -> SourceAddress:
    """Return the source that `text`, as `str` gives it, names.

    :raises ConfigError: if it is none.
    """
    if text.startswith(_LAYOUT):
        return parse_layout(text)

    address, query, options = text.partition("?")
    return parse_registry(f"{address}/*{query}{options}")[0]


def is_insecure(scheme: str, query: str) -> bool:
    """Return True if `query`, of an address with `scheme`, asks for plain HTTP.

    :raises ConfigError: if it has another option, or another value.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    value = options.pop("insecure", "false").lower()
    if options:
        raise ConfigError(f"{scheme}:// has no option {min(options)[:50]!r}")

    if value not in _YES | _NO:
        raise ConfigError("insecure is true or false")

    return value in _YES


def distinct(sources: Iterable[SourceAddress]) -> list[SourceAddress]:
    """Return `sources`, each once, in the order of the first of each."""
    return list(dict.fromkeys(sources))
