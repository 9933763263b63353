"""Which addresses a URL that a *server* named may lead to.

A registry that answers with a redirect into our own network would make us its scanner (server-side request forgery).
So addresses are checked when a socket is made for them, after name resolution, whatever the URL said.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that is assigned to networks (RFC 4291). What else IPv6 has is for one site, one link, or no single host.
_UNICAST = ipaddress.IPv6Network("2000::/3")
# Of these, what is no host of the internet; Python knows some of them, and not in each of its versions (IANA's
# registries of special-purpose addresses).
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in ("2001::/23", "2001:db8::/32", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4")
]


class AddressRefused(OSError):
    """A server-named URL led to a private address.

    The text is always the same: aiohappyeyeballs raises the first of several failures only if they all read alike.
    """

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is private")


def is_public(address: str) -> bool:
    """Tell whether a numeric `address` belongs to the public internet, looking through IPv4 wrapped in IPv6."""
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
    """Lets server-named URLs reach private addresses only if the server that the user named is at one itself.

    A mirror of a Quay inside one's own network needs its storage there; quay.io has no business pointing into it.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self.allow_private = allow_private

    def trusted_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket to the server that the user named, and learn what kind of address it has."""
        if not is_public(address_info[4][0]):
            self.allow_private = True

        return _socket(address_info)

    def allows(self, host: str) -> bool:
        """Tell whether a proxy may be asked for `host`, where a server sent us: only literal addresses tell."""
        try:
            return self.allow_private or is_public(host)
        except ValueError:
            return True

    def guarded_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket to where a server sent us.

        :raises AddressRefused: when that is a private address and may not be.
        """
        if not self.allow_private and not is_public(address_info[4][0]):
            raise AddressRefused

        return _socket(address_info)


def _socket(address_info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address_info
    return socket.socket(family, kind, protocol)
