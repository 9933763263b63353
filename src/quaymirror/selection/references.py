"""References to images as people paste them: of which registry they are, and how their first part was read."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError, InvalidName
from ..oci import Digest
from ..oci.reference import is_registry_host, is_repository_name, is_tag
from ..values import dataclass, pattern
from .grammar import is_pattern, quoted

# Registries whose names need no further component to be known as such; docs/reference/selections.md lists them.
WELL_KNOWN = frozenset(
    {
        "cgr.dev",
        "container-registry.oracle.com",
        "docker.elastic.co",
        "docker.io",
        "gcr.io",
        "ghcr.io",
        "icr.io",
        "index.docker.io",
        "k8s.gcr.io",
        "lscr.io",
        "mcr.microsoft.com",
        "nvcr.io",
        "public.ecr.aws",
        "quay.io",
        "registry-1.docker.io",
        "registry.access.redhat.com",
        "registry.connect.redhat.com",
        "registry.fedoraproject.org",
        "registry.gitlab.com",
        "registry.k8s.io",
        "registry.opensuse.org",
        "registry.redhat.io",
        "registry.suse.com",
        "xpkg.upbound.io",
    }
)
QUAY = "quay.io"
DOCKER = "docker.io"
_DOCKER_NAMES = {DOCKER, "index.docker.io", "registry-1.docker.io"}
_PASTED = ("docker://", "https://", "http://")
_PATHS = ("/", "./", "../", "~")
_WEB_PAGE = pattern(r"/repository/(?P<name>[^?#]+?)/?")
_TAG = pattern(r"(?P<name>.*?[^/:]*)(?::(?P<tag>[^/:]*))?", re.DOTALL)
_DIGEST = pattern(r"[A-Za-z0-9+._-]+:[A-Za-z0-9=_-]*")
FORM = "[registry/]repository[:tag][@digest]"


@dataclass(frozen=True, slots=True)
class PastedReference:
    """One image as it was written; `registry` is "" for the server of the options.

    `reading` says how a first component with a dot was read, "" if it has none.
    """

    registry: str
    name: str
    tag: str | None = None
    digest: Digest | None = None
    reading: str = ""

    @property
    def full_name(self) -> str:
        """The name with its registry, as it can be pasted again."""
        return f"{self.registry}/{self.name}" if self.registry else self.name

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{self.full_name}{tag}" + (f"@{self.digest}" if self.digest is not None else "")


def is_path(word: str) -> bool:
    """Return True if `word`, where a selection may stand, is a path."""
    return word.startswith(_PATHS) or word == "~"


def is_pasted(word: str) -> bool:
    """Return True if `word`, where a selection may stand, is a reference to one image: not an organization."""
    return word.startswith(_PASTED) or ("/" in word and "://" not in word and not is_path(word))


def read_reference(text: str, server: str, *, default_registry: str = "") -> PastedReference:
    """Return the image that `text` refers to; `server` is the host of the server of the options.

    The first component is a registry in `docker://HOST/…`, if it is `localhost`, has a port, is `server` or well known,
    or if it contains a dot and at least two components follow. Otherwise all of `text` is a name at `default_registry`,
    or at the server.

    :raises ConfigError: if it refers to no image.
    """
    if text.startswith(("https://", "http://")):
        return _of_web_page(text, server)

    _, at, rest = text.partition("@")
    if at and not _DIGEST.fullmatch(rest):
        # Not quoted: a password may stand before it.
        raise ConfigError(f"an '@' that begins no digest: a reference takes no credentials; write {FORM}")

    plain = text.removeprefix("docker://")
    if is_pattern(plain):
        advice = "write ORG GLOB TAG, or quay://ORG/GLOB:TAG"
        raise ConfigError(f"a wildcard in a reference to one image: {quoted(text)}; {advice}")

    first, slash, rest = plain.partition("/")
    is_host = bool(slash) and (plain != text or _is_registry(first, rest, server))
    if not is_host and default_registry:
        return _reference(text, default_registry, plain, "")

    if is_host:
        reading = f"{first} was read as a registry" if "." in first else ""
        return _reference(text, "" if first == server else first, rest, reading)

    reading = f"{first} was read as an organization at {server}; docker://{first}/… names a registry"
    return _reference(text, "", plain, reading if "." in first and slash else "")


def _is_registry(first: str, rest: str, server: str) -> bool:
    if first == "localhost" or ":" in first or first == server or first in WELL_KNOWN:
        return True

    return "." in first and "/" in rest


def _of_web_page(text: str, server: str) -> PastedReference:
    parts = urlsplit(text)
    page = _WEB_PAGE.fullmatch(parts.path)
    if page is None or parts.username is not None:
        advice = "write https://quay.io/repository/ORG/REPO, or ORG/REPO:TAG"
        # Not quoted: a password may stand in it.
        raise ConfigError(f"not the web page of a repository: {parts.hostname or ''}{quoted(parts.path)}; {advice}")

    tag = next(iter(parse_qs(parts.query).get("tag", ())), None)
    host = parts.netloc.lower()
    reading = f"{host} was read as a registry"
    name = page["name"] if tag is None or ":" in page["name"] else f"{page['name']}:{tag}"
    return _reference(text, "" if host == server else host, name, reading)


def _reference(text: str, registry: str, name: str, reading: str) -> PastedReference:
    image, at, digest = name.partition("@")
    found = _TAG.fullmatch(image)
    assert found is not None
    repository, tag = found["name"], found["tag"]
    if registry in _DOCKER_NAMES:
        registry, repository = DOCKER, repository if "/" in repository else f"library/{repository}"

    try:
        if registry and not is_registry_host(registry):
            raise InvalidName(f"{registry[:100]!r} is not a host")

        if not is_repository_name(repository):
            raise InvalidName(f"{repository[:100]!r} is not a repository name")

        if not registry and "/" not in repository:
            raise InvalidName("an organization and a repository are needed, or --default-registry HOST")

        if tag is not None and not is_tag(tag):
            raise InvalidName(f"{tag[:100]!r} is not a tag")

        parsed = Digest.parse(digest) if at else None
    except InvalidName as error:
        raise ConfigError(f"not an image: {quoted(text)}: {error}; write {FORM}") from None

    return PastedReference(registry, repository, tag, parsed, reading)
