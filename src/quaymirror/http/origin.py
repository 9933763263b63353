"""Origins of URLs, URLs named by servers, and the part of a URL that may be shown."""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import ConfigError, UnsafeRedirect
from ..values import dataclass, pattern

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Longer than any signed URL of a storage service, shorter than what would be an attack on memory or logs.
_MAX_URL = 8 * 1024
_AUTHORITY = pattern("[^/?#]*")
# What a request line can hold beside letters and digits.
_VISIBLE = "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, to which credentials are bound (RFC 6454)."""

    scheme: str
    host: str
    port: int
    netloc: str = field(init=False, repr=False, compare=False)
    """Host, with a port other than the scheme's default, as in image names."""

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        netloc = host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
        object.__setattr__(self, "netloc", netloc)

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute http(s) `url`.

        :raises ValueError: if it is not one, or contains a user name.
        """
        return _origin(authority(url))

    @property
    def is_secure(self) -> bool:
        """True if TLS protects the connection."""
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def authority(url: str) -> str:
    """Return `url` up to its path: all requests to one host have the same."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{_AUTHORITY.match(rest)[0]}"  # type: ignore[index]


# Each request parses URLs of the same few hosts.
@lru_cache(maxsize=256)
def _origin(url: str) -> Origin:
    parts, port = _parsed(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an http(s) URL")

    if parts.username is not None or parts.password is not None:
        raise ValueError("a user name or password has no place in a URL")

    # Fields of answers have no encoding, and clients differ in how they encode such a name.
    if not parts.hostname.isascii():
        raise ValueError("its host name is not ASCII, as xn--… is")

    return Origin(parts.scheme, parts.hostname.lower(), port or _DEFAULT_PORTS[parts.scheme])


def _parsed(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None  # its own words may hold all of the text

    if port == 0:
        raise ValueError("a URL with port 0")

    return parts, port


def parse_server(text: str) -> Origin:
    """Return the origin of the server that a user named: `quay.io`, `https://quay.example:8443`, `http://127.0.0.1:80`.

    :raises ConfigError: if it is not such a URL, or has more than scheme, host and port.
    """
    url = text if "://" in text else f"https://{text}"
    try:
        origin = Origin.of(url)
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"not a server: {_without_secrets(text)!r} ({error}); write https://HOST[:PORT]") from None

    if parts.path.strip("/") or parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in text):
        raise ConfigError(f"not a server: {_without_secrets(text)!r}; write https://HOST[:PORT]")

    return origin


def follow(base: str, location: str) -> str:
    """Return the absolute URL that the `Location` of an answer from `base` names.

    :raises UnsafeRedirect: for another scheme than http(s), plain HTTP after HTTPS, a user name in the URL, or a URL
        that no honest server sends.
    """
    source = Origin.of(base)
    try:
        url = joined(base, checked_url(location))
        target = Origin.of(url)
    except ValueError as error:
        raise UnsafeRedirect(f"{source.netloc} redirects to an address that can't be followed: {error}") from None

    if source.is_secure and not target.is_secure:
        raise UnsafeRedirect(f"{source.netloc} redirects from HTTPS to plain HTTP at {target.netloc}: refused")

    return url


def joined(base: str, location: str) -> str:
    """Return `location`, which an answer from `base` named, as an absolute URL; path and query stay as they are.

    :raises ValueError: if it is not a URL.
    """
    if location[:8].lower().startswith(("https://", "http://")):
        return location

    if location.startswith("//"):
        return f"{Origin.of(base).scheme}:{location}"

    if location.startswith("/"):
        return f"{Origin.of(base)}{location}"

    try:
        return urljoin(base, location)
    except ValueError:
        raise ValueError("not a URL") from None


def request_target(url: str) -> str:
    """Return path and query of an absolute `url` as they go into a request line.

    A signature may cover any byte of them, so nothing is normalised: only what no request line can hold is escaped.
    """
    target = url[len(authority(url)) :].partition("#")[0]
    if not (target.isascii() and target.isprintable()) or " " in target:
        target = quote(target, safe=_VISIBLE)

    return target if target.startswith("/") else f"/{target}"


def checked_url(text: str) -> str:
    """Return `text`, from a server, if it can be an absolute or relative URL.

    :raises ValueError: if no honest server sends it.
    """
    if not text or len(text) > _MAX_URL or not text.isprintable():
        raise ValueError("not a usable URL")

    return text


def without_user(url: str) -> tuple[str, str]:
    """Return `url` without user name and password, and these as they stand in it, "" if there are none."""
    scheme, separator, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    return f"{scheme}{separator}{rest[len(user) + len(at) :]}", user


def shown(url: str) -> str:
    """Return `url` for messages and logs: without the query, which may contain signatures, and without user name."""
    parts = urlsplit(url)
    return SplitResult("", parts.netloc.rpartition("@")[2], parts.path, "", "").geturl().removeprefix("//")


def _without_secrets(text: str) -> str:
    scheme, separator, rest = text.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:150]
