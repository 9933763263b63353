"""Links to the next page of a list, which servers name (RFC 8288)."""

from __future__ import annotations

import re

from ..errors import Unavailable
from ..http.exchange import Response
from ..http.origin import Origin, checked_url, joined, request_target
from ..values import pattern

_LINK = pattern(r'<([^<>]*)>\s*;[^,]*?\brel\s*=\s*"?next"?', re.IGNORECASE)


def next_link(response: Response) -> str:
    """Return path and query of the next page that the `Link` fields of `response` name, "" without one.

    :raises Unavailable: if the link leads to another host.
    """
    found = _LINK.search(", ".join(response.all_headers("Link")))
    return "" if found is None else checked_next(response, found[1])


def checked_next(response: Response, location: str) -> str:
    """Return path and query of `location`, the next page after `response`.

    :raises Unavailable: if it leads to another host.
    """
    try:
        url = joined(response.url, checked_url(location))
        there = Origin.of(url)
    except ValueError as error:
        raise Unavailable(f"{response.name}: the link to the next page is {error}") from None

    # Behind a proxy that terminates TLS, servers name the scheme that they see.
    if there.host != Origin.of(response.url).host:
        raise Unavailable(f"{response.name}: the next page is at another host, {there.netloc}: not followed")

    return request_target(url)
