"""Addresses of sources: the kind of a source, and where it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigError
from ..http.origin import Origin, authority
from ..oci.reference import is_registry_host
from ..values import dataclass
from .bucket import is_bucket, parse_bucket
from .grammar import quoted

# Kinds of sources whose repositories belong to no organization.
_WITHOUT_ORGANIZATIONS = frozenset({"registry", "ocidir"})
# Registries with an API of their own at another host: the URLs of both.
_SERVICES = {
    "hub": ("https://hub.docker.com", "https://registry-1.docker.io"),
    "ghcr": ("https://api.github.com", "https://ghcr.io"),
}
_OPTIONS = {
    "harbor": {"insecure"},
    "hub": {"api", "registry"},
    "ghcr": {"api", "registry"},
    "gitlab": {"api", "registry", "insecure"},
}
_OWNERS = {"harbor": "project", "hub": "namespace", "ghcr": "owner", "gitlab": "group"}
_YES, _NO = frozenset({"", "1", "true", "yes"}), frozenset({"0", "false", "no"})
_LAYOUT = "ocidir://"


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source of images: its `kind`, as `catalog.kinds` knows it, and where it is.

    `host` is HOST[:PORT]; `insecure` means plain HTTP. A layout has a `path` instead, or the address of a bucket. `api`
    and `registry` are URLs of other hosts that serve the API and the images, "" if it is `host`. `repository` is the
    one of images that a layout names by a tag alone, "" if nothing names it. `at` is the id of the snapshot of a mirror
    whose images are meant, "" for its current images.
    """

    kind: str
    host: str = ""
    path: str = ""
    insecure: bool = False
    api: str = ""
    registry: str = ""
    repository: str = ""
    at: str = ""

    @classmethod
    def of_origin(cls, kind: str, origin: Origin) -> SourceAddress:
        """Return the address of the source of `kind` at `origin`."""
        return cls(kind, origin.netloc, insecure=not origin.is_secure)

    @property
    def origin(self) -> Origin:
        """The origin of the images; the source must have a host."""
        if self.registry:
            return Origin.of(authority(self.registry))

        # GitLab's own default: a host name of its own for the registry.
        host = f"registry.{self.host}" if self.kind == "gitlab" else self.host
        return Origin.of(f"{'http' if self.insecure else 'https'}://{host}")

    @property
    def api_url(self) -> str:
        """The URL of the API, without a slash at the end."""
        own = f"{'http' if self.insecure else 'https'}://{self.host}"
        return (self.api or _SERVICES.get(self.kind, (own,))[0]).rstrip("/")

    @property
    def registry_name(self) -> str:
        """The host in references to its images; `localhost` for those of a layout that don't have one."""
        return self.origin.netloc if self.host else "localhost"

    @property
    def has_organizations(self) -> bool:
        """False if the names of repositories are complete without an organization."""
        return self.kind not in _WITHOUT_ORGANIZATIONS

    @property
    def owner(self) -> str:
        """The word of this source for an organization."""
        return _OWNERS.get(self.kind, "organization")

    @property
    def is_layout(self) -> bool:
        """True if the images come from files, and no host is asked."""
        return self.kind == "ocidir"

    def __str__(self) -> str:
        if self.is_layout:
            return self.path if "://" in self.path else f"{_LAYOUT}{self.path}"

        return str(self.origin) if self.kind == "quay" else f"{self.start.removesuffix('/')}{self.query}"

    @property
    def start(self) -> str:
        """The start of an address of this source, up to its names."""
        return f"{self.kind}://" if self.kind in _SERVICES else f"{self.kind}://{self.host}/"

    @property
    def query(self) -> str:
        """The query of an address of this source."""
        values = {"insecure": "true" if self.insecure else "", "api": self.api, "registry": self.registry}
        given = [f"{key}={value}" for key, value in values.items() if value and self.kind != "quay"]
        return f"?{'&'.join(given)}" if given else ""


def is_source(text: str) -> bool:
    """Return True if `text` is an address of another source than Quay."""
    return text.startswith("registry://") or is_layout(text) or is_catalog(text)


def is_layout(text: str) -> bool:
    """Return True if `text` is an address of `parse_layout`."""
    return text.startswith(_LAYOUT) or is_bucket(text)


def is_catalog(text: str) -> bool:
    """Return True if `text` is an address of `parse_catalog`."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in _OPTIONS


def parse_layout(text: str) -> SourceAddress:
    """Return the layout that `text` (`ocidir://PATH`, or the address of a bucket) names.

    :raises ConfigError: if it has no path.
    """
    if is_bucket(text):
        return SourceAddress("ocidir", path=parse_bucket(text).text)

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

    globs, _, tags = path.partition(":") if ":" in path else (path or "*", "", "latest")
    host = Origin.of(f"https://{host}").netloc
    return SourceAddress(scheme, host, insecure=is_insecure(scheme, query)), globs, tags


def parse_catalog(text: str) -> tuple[SourceAddress, str, str, str]:
    """Return source, organization, globs and tags of an address of Harbor, Docker Hub, GitHub or GitLab.

    It is written `harbor://HOST/PROJECT/GLOB:TAG`, `hub://NAMESPACE/GLOB:TAG`, `ghcr://OWNER/GLOB:TAG` or
    `gitlab://HOST/GROUP/GLOB:TAG`. The names are not checked yet.

    :raises ConfigError: if it has another form, or an unknown option.
    """
    scheme, _, rest = text.partition("://")
    rest, _, query = rest.partition("?")
    first = f"{'' if scheme in _SERVICES else 'HOST/'}{_OWNERS[scheme].upper()}"
    form = f"write {scheme}://{first}/GLOB:TAG"
    if "@" in text:
        # Not quoted: a password may stand before it.
        raise ConfigError(f"an '@' in the address: it takes no credentials and no digest; {form}")

    options = _options(scheme, query)
    if scheme in _SERVICES:
        found = Origin.of(authority(options.get("registry") or _SERVICES[scheme][1]))
        address = SourceAddress(scheme, found.netloc, api=options.get("api", ""), registry=options.get("registry", ""))
    else:
        host, _, rest = rest.partition("/")
        if not is_registry_host(host):
            raise ConfigError(f"not a host: {quoted(host)}; {form}")

        address = SourceAddress(
            scheme,
            Origin.of(f"https://{host}").netloc,
            insecure=options.get("insecure") == "true",
            api=options.get("api", ""),
            registry=options.get("registry", ""),
        )

    name, _, tags = rest.rpartition(":") if ":" in rest else (rest, "", "latest")
    organization, _, globs = name.partition("/") if "/" in name else (name, "", "*")
    if scheme in _SERVICES and ("." in organization or ":" in organization or organization == "localhost"):
        raise ConfigError(f"{scheme}:// takes no host, as {quoted(organization)} looks like; {form}")

    if not organization:
        raise ConfigError(f"{first.rpartition('/')[2]} is missing in {quoted(text)}; {form}")

    # GitHub and GitLab ignore case in owners; names of images have no capital letters.
    organization = organization.lower() if scheme in ("ghcr", "gitlab") else organization
    return address, organization, globs, tags


def _options(scheme: str, query: str) -> dict[str, str]:
    """Return the checked options in the `query` of an address with `scheme`."""
    options = _pairs(scheme, query, _OPTIONS[scheme])
    for key in options.keys() & {"api", "registry"}:
        parts = urlsplit(options[key])
        try:
            Origin.of(options[key])
        except ValueError as error:
            raise ConfigError(f"{key} is not a URL: {error}; write {key}=https://HOST") from None

        if parts.query or parts.fragment or (key == "registry" and parts.path.strip("/")):
            raise ConfigError(f"{key} has more than a host; write {key}=https://HOST")

    if "insecure" in options:
        options["insecure"] = "true" if is_insecure(scheme, f"insecure={options['insecure']}") else "false"

    return options


def parse_source(text: str) -> SourceAddress:
    """Return the source that `text`, as `str` gives it, names.

    :raises ConfigError: if it is none.
    """
    if is_layout(text):
        return parse_layout(text)

    address, query, options = text.partition("?")
    if is_catalog(text):
        return parse_catalog(f"{address}{'' if address.endswith('/') else '/'}any/*{query}{options}")[0]

    return parse_registry(f"{address}/*{query}{options}")[0]


def is_insecure(scheme: str, query: str) -> bool:
    """Return True if `query`, of an address with `scheme`, asks for plain HTTP.

    :raises ConfigError: if it has another option, or another value.
    """
    value = _pairs(scheme, query, {"insecure"}).get("insecure", "false").lower()
    if value not in _YES | _NO:
        raise ConfigError("insecure is true or false")

    return value in _YES


def _pairs(scheme: str, query: str, known: Collection[str]) -> dict[str, str]:
    """Return the options in the `query` of an address with `scheme`, which has those that are `known`."""
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise ConfigError(f"{scheme}:// has no option {key[:50]!r}; it has {', '.join(sorted(known))}")

        if key in options:
            raise ConfigError(f"{key} is given twice in the address; write it once")

        options[key] = value

    return options


def distinct(sources: Iterable[SourceAddress]) -> list[SourceAddress]:
    """Return `sources`, each once, in the order of the first of each."""
    return list(dict.fromkeys(sources))
