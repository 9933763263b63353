"""Options of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ..errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:5000"
# The value of `listen` for the socket of a unit of systemd.
SYSTEMD = "systemd"
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The address of a server, and its access rules.

    `listen` is `HOST:PORT`, or `systemd` for the socket that a unit passes. `tls_cert` and `tls_key` are PEM files;
    `htpasswd` has the users with their bcrypt hashes. All three are read again when they change. `at` is the snapshot
    that is served, by id or date, instead of the current images. `access_log` gets a JSON line per request.
    `state` is the directory with the states of mirrors in object stores, by default that of syncs. Transfers may take
    `stop_seconds` to end.

    :raises ConfigError: if a value is not legal.
    """

    listen: str = DEFAULT_LISTEN
    tls_cert: Path | None = None
    tls_key: Path | None = None
    htpasswd: Path | None = None
    access_log: str | None = None
    at: str | None = None
    state: Path | None = None
    max_connections: int = 10_000
    idle_seconds: float = 75.0
    stall_seconds: float = 300.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.listen != SYSTEMD:
            address(self.listen)

        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together")

        if self.max_connections < 1:
            raise ConfigError("max_connections must be at least 1")

    @property
    def warning(self) -> str:
        """A warning for an address that other machines can reach, empty if it is protected enough."""
        if self.listen != SYSTEMD and _is_loopback(address(self.listen)[0]):
            return ""

        place = "the socket of systemd" if self.listen == SYSTEMD else self.listen
        if self.tls_cert is None:
            danger = "pulls can be changed on the way" if self.htpasswd is None else "passwords are sent in clear text"
            hint = "use --tls-cert and --tls-key, or a proxy in front"
            return f"{place} is served without TLS, so {danger}: {hint}"

        if self.htpasswd is None:
            return f"{place} is served to all who can reach it: use --htpasswd if that is not meant"

        return ""


def address(listen: str) -> tuple[str, int]:
    """Return the host and the port of `HOST:PORT`; an empty host means all addresses.

    :raises ConfigError: if it has another form.
    """
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(f"not an address to listen at: {listen[:100]!r}; write HOST:PORT, such as {DEFAULT_LISTEN}")

    return match["v6"] or match["host"] or "", int(match["port"])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
