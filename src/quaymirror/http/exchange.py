"""Requests and responses as values and protocols: what clients and transports exchange."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import field
from typing import Protocol

from ..__about__ import __version__
from ..values import dataclass
from .bodies import ReceiveInThread
from .origin import Origin, request_target
from .validator import Validator

# Not similar to a browser: Quay answers 400 to browsers without its own header.
USER_AGENT = f"quaymirror/{__version__}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server, whose `path` starts with a slash.

    - `kind` is its class of endpoints, which has a limiter of its own.
    - `scope` lists the rights that a token needs, separated by spaces, the main one first.
    - `may_redirect` allows the answer to come from another host, which gets no credentials.
    - A `body` other than `bytes` can be sent only once and needs its `Content-Length` in `headers`.
    - Unless `patient`, the request fails instead of waiting for a host that limits requests per second.
    - Unless it `waits`, it fails with HostDown while the host is paused, so that the caller can wait without its slot.
    - A `fresh` request uses a new connection: behind one address there may be several servers, one of them broken.
    - `name` replaces the path in messages, for paths that a server chose.
    - `if_range` makes the range conditional at the host that it is from, and is not shown to others.
    - `location` is the address that an earlier request like this was redirected to, and is requested directly.
    - A thread can receive the body of the answer, which has about `threaded_bytes`; see `Response.threaded`.
      With 0, only the event loop can. If it is written `to_file`, another process can receive it, too: see `FileFill`.
    - With `accept_any_404` nothing is concluded from a 404, so that one without the specification's error body counts.
    """

    path: str
    kind: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    scope: str | None = None
    may_redirect: bool = False
    body: bytes | AsyncIterable[bytes] | None = None
    patient: bool = True
    waits: bool = True
    fresh: bool = False
    name: str = ""
    if_range: Validator | None = None
    location: str = ""
    threaded_bytes: int = 0
    to_file: bool = False
    accept_any_404: bool = False


class Response(Protocol):
    """The answer to one request; its body can be read once. The caller closes it."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields, whose names ignore case; the first one of a repeated field."""

    @property
    def url(self) -> str:
        """The requested URL."""

    @property
    def name(self) -> str:
        """The name in messages: the URL as far as it may be shown."""

    @property
    def held(self) -> float:
        """The seconds for which our own limit held back `chunks`."""

    @property
    def threaded(self) -> ReceiveInThread | None:
        """The function that receives the body in a thread, None if only the event loop can."""

    @property
    def has_arrived(self) -> bool:
        """True if all of the body has arrived, so that reading it does not wait."""

    def all_headers(self, name: str) -> list[str]:
        """Return every field called `name`."""

    def close(self) -> None:
        """Return the connection to the pool if the body was read to its end, otherwise close it."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives.

        :raises ReadInterrupted: if it ends before its announced length.
        :raises TimedOut: if nothing arrives for too long.
        """

    async def read(self, limit: int) -> bytes:
        """Return the whole body.

        :raises SizeMismatch: if it is longer than `limit` bytes; no more than those are held in memory.
        :raises ReadInterrupted: if it ends before its announced length.
        :raises TimedOut: if nothing arrives for too long.
        """


class Transport(Protocol):
    """Sends one request to one address."""

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        name: str = "",
        fresh: bool = False,
    ) -> Response:
        """Send one request, over a new connection if `fresh`; messages call it `name`.

        A streamed `body` has its `Content-Length` in `headers`.

        :raises ConnectFailed: without a connection, or if TLS failed.
        :raises TimedOut: if no answer arrives in time.
        :raises ReadInterrupted: if the connection broke, or the answer was not HTTP.
        :raises UnsafeRedirect: if the address must not be reached from here.
        """

    async def send_large(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        size: int,
        to_file: bool = False,
        name: str = "",
        fresh: bool = False,
    ) -> Response:
        """Request a body of about `size` bytes with GET, to be received outside of the event loop if it is worth it.

        For `to_file` see `Request`, for the rest `send`.
        """


def request_head(origin: Origin, url: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request.

    :raises ValueError: if a field can't be sent.
    """
    # Without identity Quay compresses blobs on the fly, and their bytes no longer match their digest.
    fields = {"Host": origin.netloc, "User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    lines = [f"GET {request_target(url)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**fields, **headers}.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header field of several lines")

    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
