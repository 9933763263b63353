"""Names of repositories and images (OCI distribution-spec, "Pulling manifests")."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from ..errors.usage import InvalidName
from ..values import dataclass, pattern
from .digest import Digest

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = pattern(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
# Quay accepts more than the distribution-spec: `a..b`, `a--b` and a trailing dash. No component is empty, `.` or `..`,
# and no character needs quoting in a URL.
_NAME = pattern(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_TAG = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME = 255
_MAX_PORT = 65_535


def is_registry_host(text: str) -> bool:
    """Return True if `text` is a host or an IP address (IPv6 in brackets), with or without port."""
    found = _HOST.fullmatch(text) if len(text) <= _MAX_NAME else None
    if found is None:
        return False

    try:
        IPv6Address(found["ipv6"] or "::")
    except ValueError:
        return False

    return found["port"] is None or 0 < int(found["port"]) <= _MAX_PORT


def is_repository_name(text: str) -> bool:
    """Return True if `text` is a repository name with organization, such as `kolla/nova-api`."""
    return len(text) <= _MAX_NAME and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Return True if `text` is a tag (distribution-spec: 1 to 128 letters, digits, `_`, `.` and `-`)."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository of a registry: `quay.io` and `kolla/nova-api`.

    :raises InvalidName: if either part is invalid.
    """

    registry: str
    name: str

    def __post_init__(self) -> None:
        if not is_registry_host(self.registry):
            raise InvalidName(f"not a registry host: {self.registry[:150]!r}")

        if not is_repository_name(self.name):
            raise InvalidName(f"not a repository name: {self.name[:150]!r}")

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image by tag, by digest, or, *pinned*, by both: then the digest identifies it, and the tag is its name.

    References sort by repository, tag and digest; missing parts come first.

    :raises InvalidName: if the tag is invalid, or both parts are missing.
    """

    repository: Repository
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if self.tag is not None and not is_tag(self.tag):
            raise InvalidName(f"not a tag: {self.tag[:150]!r}")

        if self.tag is None and self.digest is None:
            raise InvalidName(f"{self.repository}: a reference needs a tag or a digest")

    def __lt__(self, other: Reference) -> bool:
        # Not order=True: that compares None with a string, and raises TypeError.
        return self._sort_key < other._sort_key

    @property
    def _sort_key(self) -> tuple[Repository, str, str]:
        return self.repository, self.tag or "", str(self.digest or "")

    def pinned(self, digest: Digest) -> Reference:
        """Return this reference pinned to `digest`."""
        return replace(self, digest=digest)

    @property
    def name(self) -> str:
        """The image's name without its registry, as in a mirror: `kolla/nova-api:2025.1-debian`."""
        suffix = f":{self.tag}" if self.tag is not None else f"@{self.digest}"
        return f"{self.repository.name}{suffix}"

    @property
    def full_name(self) -> str:
        """The image's name with its registry, without the digest of a pinned tag."""
        return f"{self.repository.registry}/{self.name}"

    def __str__(self) -> str:
        return f"{self.full_name}@{self.digest}" if self.tag is not None and self.digest else self.full_name
