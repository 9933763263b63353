"""Requests and answers as plain values: handlers map one to the other, and faults change answers.

Nothing here touches a socket. `quaymirror.testing.delivery` puts an answer on the wire.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

JSON = "application/json"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its handler sees it. ``path`` is decoded, so ``a%2Fb`` and ``a/b`` are the same."""

    method: str
    path: str
    query_string: str
    query: MultiMapping[str]
    headers: CIMultiDictProxy[str]
    body: bytes = b""

    @property
    def is_read(self) -> bool:
        """Return whether the method is GET or HEAD."""
        return self.method in ("GET", "HEAD")

    def without_header(self, name: str) -> Request:
        """Return the request as if the header *name* had not been sent."""
        kept = CIMultiDict((key, value) for key, value in self.headers.items() if key.lower() != name.lower())
        return replace(self, headers=CIMultiDictProxy(kept))


class Stream(Protocol):
    """A body that comes from elsewhere in pieces."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        ...

    def close(self) -> None:
        """Let go of the source; called once whether or not the body was read."""
        ...


Body = bytes | memoryview | Stream


@dataclass(frozen=True, slots=True)
class Delivery:
    """The way an answer is sent; by default, correctly."""

    delay: float = 0.0
    hold: asyncio.Event | None = None
    reset: bool = False
    raw: bytes | None = None
    response: web.StreamResponse | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    stall_seconds: float | None = None
    chunk: int | None = None
    interval: float = 0.0
    until_close: bool = False


HONEST = Delivery()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``length`` is the Content-Length: None sends a chunked body; a HEAD has a length and no body."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: Body = b""
    length: int | None = 0
    close: bool = False
    delivery: Delivery = HONEST

    def with_headers(self, headers: Mapping[str, str] | CIMultiDict[str]) -> Answer:
        """Return this answer with *headers* set, in place of any of the same names."""
        merged = self.headers.copy()
        for name in headers:
            merged.popall(name, None)
        merged.extend(headers)
        return replace(self, headers=merged)

    def with_body(self, body: Body, length: int | None) -> Answer:
        """Return this answer with another body."""
        return replace(self, body=body, length=length)

    def delivered(self, change: Callable[[Delivery], Delivery]) -> Answer:
        """Return this answer with *change* made to its delivery."""
        return replace(self, delivery=change(self.delivery))

    def closing(self) -> Answer:
        """Return this answer with ``Connection: close``."""
        return replace(self, close=True)


def data(body: bytes | memoryview, content_type: str, status: int = 200, **headers: str) -> Answer:
    """Return *body* as it is; header names are given with underscores for dashes."""
    fields = CIMultiDict({"Content-Type": content_type})
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return Answer(status, fields, body, len(body))


def json_document(document: object, status: int = 200, content_type: str = JSON) -> Answer:
    """Return *document* as JSON, written as API v1 writes it."""
    return data(json.dumps(document).encode() + b"\n", content_type, status)


def compact_json(document: object, status: int = 200, content_type: str = JSON) -> Answer:
    """Return *document* as JSON without spaces, as the registry part of Quay writes it."""
    return data(json.dumps(document, separators=(",", ":")).encode() + b"\n", content_type, status)


def html(text: str, status: int) -> Answer:
    """Return a page."""
    return data(text.encode(), HTML, status)


def not_found_page() -> Answer:
    """Return the web interface, which Quay serves with a 404 for every route it doesn't know."""
    page = '<!DOCTYPE html>\n<html ng-app="quay">\n  <head><title>Quay</title></head>\n  <body></body>\n</html>\n'
    return html(page, 404).with_headers({"X-Frame-Options": "DENY", "Cache-Control": "no-cache, no-store"})


def method_not_allowed() -> Answer:
    """Return the web framework's 405."""
    text = (
        "<!doctype html>\n<html lang=en>\n<title>405 Method Not Allowed</title>\n<h1>Method Not Allowed</h1>\n"
        "<p>The method is not allowed for the requested URL.</p>\n"
    )
    return html(text, 405).with_headers({"Allow": "OPTIONS, HEAD, GET"})


def redirect(location: str, status: int = 302) -> Answer:
    """Return the web framework's redirect, which has a body too."""
    link = location.replace("&", "&amp;")
    text = (
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n<p>You should be "
        f'redirected automatically to the target URL: <a href="{link}">{link}</a>. If not, click the link.\n'
    )
    return html(text, status).with_headers({"Location": location})


def nginx_page(status: int, reason: str) -> Answer:
    """Return an error page of nginx itself: HTML with CRLF, and no header that a client could make use of."""
    text = (
        f"<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1>"
        "</center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return data(text.encode(), "text/html", status).closing()


def registry_error(status: int, code: str, message: str, detail: Any = None) -> Answer:
    """Return a registry error (distribution-spec, "Error Codes")."""
    error = {"code": code, "detail": {} if detail is None else detail, "message": message}
    return compact_json({"errors": [error]}, status)
