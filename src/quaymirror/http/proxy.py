"""Proxies from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, or in lower case.

Without a standard, this is the common subset of tools in Go and Python. Loopback never uses a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import field

from ..errors import ConfigError
from ..values import dataclass
from .origin import Origin


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy per scheme, and the hosts that don't use it. The URLs can contain passwords."""

    by_scheme: Mapping[str, str] = field(default_factory=dict, repr=False)
    exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Proxies:
        """Return the proxies named by `env`.

        :raises ConfigError: if a proxy URL is not http(s).
        """
        found = {}
        for scheme in ("http", "https"):
            text = _variable(env, f"{scheme}_proxy") or _variable(env, "all_proxy")
            if text:
                found[scheme] = _checked(text, scheme)

        exceptions = (part.strip().lower() for part in _variable(env, "no_proxy").split(","))
        return cls(found, tuple(part for part in exceptions if part))

    def find(self, url: str) -> str | None:
        """Return the URL of the proxy for `url`, None for a direct connection."""
        origin = Origin.of(url)
        if origin.scheme not in self.by_scheme or _is_loopback(origin.host):
            return None

        if any(_matches(origin, exception) for exception in self.exceptions):
            return None

        return self.by_scheme[origin.scheme]


def _variable(env: Mapping[str, str], name: str) -> str:
    return env.get(name) or env.get(name.upper()) or ""


def _checked(text: str, scheme: str) -> str:
    url = text if "://" in text else f"http://{text}"
    kind, _, rest = url.partition("://")
    try:
        Origin.of(f"{kind}://{rest.rpartition('@')[2]}")
    except ValueError:
        raise ConfigError(f"{scheme}_proxy: write http://[USER:PASSWORD@]HOST:PORT") from None

    return url


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address is not None else host == "localhost" or host.endswith(".localhost")


def _matches(origin: Origin, exception: str) -> bool:
    if exception == "*":
        return True

    address = _address(origin.host)
    if address is not None and "/" in exception:
        try:
            return address in ipaddress.ip_network(exception, strict=False)
        except ValueError:
            return False

    host, colon, port = exception.rpartition(":") if exception.count(":") == 1 else (exception, "", "")
    if colon and port != str(origin.port):
        return False

    name = host.strip("[]").removeprefix("*").removeprefix(".")
    return origin.host == name or (address is None and origin.host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
