"""Addresses of schedulers of clusters."""

from __future__ import annotations

from ipaddress import ip_address

from ..errors import ConfigError
from ..values import pattern

_FORM = pattern(r"(tcp|tls)://(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})")


def check_scheduler(text: str) -> None:
    """Raise `ConfigError` if `text` is no address of a scheduler, or one without TLS that other machines can reach."""
    found = _FORM.fullmatch(text)
    if found is None or not 0 < int(found[4]) < 65_536:
        raise ConfigError(f"not a scheduler: {text[:100]!r}; write tls://HOST:PORT, or tcp://127.0.0.1:PORT")

    if found[1] == "tcp" and not _is_loopback(found[2] or found[3]):
        raise ConfigError(
            f"{text} is not on this machine: any client that reaches a scheduler without TLS can run code on its "
            "workers; use tls://"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
