"""The addresses that URLs named by a server may lead to.

A registry that redirects into our own network could use us as a scanner (server-side request forgery). Addresses are
checked when a socket is made for them, after name resolution.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All global unicast addresses (RFC 4291). Others belong to one site, one link, or no single host.
_UNICAST = ipaddress.IPv6Network("2000::/3")
# Exceptions among these (IANA's registries of special-purpose addresses), not all of which every Python knows.
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in ("2001::/23", "2001:db8::/32", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4")
]


class AddressRefused(OSError):
    """A URL named by a server led to a private address.

    The text is constant: aiohappyeyeballs raises the first of several failures only if all texts are equal.
    """

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is private")


def is_public(address: str) -> bool:
    """Return True if a numeric `address` belongs to the public internet; IPv4 in IPv6 is unwrapped."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _UNICAST:
        return False

    return ip.is_global and not any(ip in network for network in _SPECIAL)


def _unwrapped(ip: IPAddress) -> IPAddress:
    if not isinstance(ip, ipaddress.IPv6Address):
        return ip

    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)

    return ip.ipv4_mapped or ip.sixtofour or ip


class AddressGuard:
    """Allows private addresses in URLs named by a server only if the user's own server has one.

    A mirror of a Quay in the local network needs its storage there; quay.io must not point into it.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self.allow_private: bool = allow_private

    def trusted_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket to the user's own server, and remember if its address is private."""
        if not is_public(address_info[4][0]):
            self.allow_private = True

        return _socket(address_info)

    def allows(self, host: str) -> bool:
        """Return whether a `host` named by a server may be requested by a proxy; only literal addresses are checked."""
        try:
            return self.allow_private or is_public(host)
        except ValueError:
            return True

    def guarded_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket to an address named by a server.

        :raises AddressRefused: if it is private and must not be.
        """
        if not self.allow_private and not is_public(address_info[4][0]):
            raise AddressRefused

        return _socket(address_info)


def _socket(address_info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address_info
    return socket.socket(family, kind, protocol)
