"""Links to the next page of a list, which servers name (RFC 8288)."""

from __future__ import annotations

from ..errors import Unavailable
from ..values import pattern
from .exchange import Response
from .origin import Origin, checked_url, joined, request_target

# In a quoted value, commas and semicolons are ordinary characters. Some servers use single quotes.
_VALUE = r""""(?:[^"\\]|\\.)*"|'[^']*'|[^\s;,"']*"""
_LINK = pattern(rf"""<([^<>]*)>((?:\s*;\s*[^\s=;,<>"']+(?:\s*=\s*(?:{_VALUE}))?)*)""")
_PARAMETER = pattern(rf"""([^\s=;,"']+)\s*=\s*({_VALUE})""")


def next_link(response: Response) -> str:
    """Return path and query of the next page that the `Link` fields of `response` name, "" without one.

    :raises Unavailable: if the link leads to another host.
    """
    for target, parameters in _LINK.findall(", ".join(response.all_headers("Link"))):
        # A link may have several relations, and only its first `rel` counts.
        relations = (value for name, value in _PARAMETER.findall(parameters) if name.lower() == "rel")
        if "next" in next(relations, "").strip("\"'").lower().split():
            return checked_next(response, target.strip())

    return ""


def checked_next(response: Response, location: str) -> str:
    """Return path and query of `location`, the next page after `response`.

    :raises Unavailable: if it leads to another host.
    """
    try:
        url = joined(response.url, checked_url(location))
        there = Origin.of(url)
    except ValueError as error:
        raise Unavailable(f"{response.name}: the link to the next page can't be followed: {error}") from None

    # Behind a proxy that terminates TLS, servers name the scheme that they see.
    if there.host != Origin.of(response.url).host:
        raise Unavailable(f"{response.name}: the next page is at another host, {there.netloc}: not followed")

    return request_target(url)
