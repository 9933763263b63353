"""One HTTP exchange: the door to aiohttp.

Redirects are not followed here, cookies and `~/.netrc` do not exist, bodies are never decoded, and no aiohttp
exception gets out: their texts hold headers and signed URLs.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import anyio
from yarl import URL

from ..__about__ import __version__
from ..errors import (
    CertificateRefused,
    ConnectFailed,
    QuaymirrorError,
    ReadInterrupted,
    Scope,
    SizeMismatch,
    TimedOut,
    UnsafeRedirect,
)
from .guard import AddressRefused
from .origin import Origin, request_target, shown
from .rate import RateLimiter
from .timeouts import Timeouts

if TYPE_CHECKING:
    import socket

# Honest, and not taken for a browser: Quay answers 400 to those without its own header.
USER_AGENT = f"quaymirror/{__version__}"
_MOST_AT_ONCE = 512 * 1024
PROXY_REFUSES = "the proxy wants other credentials than those in its variable (407)"


class Response(Protocol):
    """The answer to one request; its body can be read once. Whoever has it closes it."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields, looked up without regard to case; the first one where a field is repeated."""

    @property
    def url(self) -> str:
        """The URL that was asked."""

    @property
    def name(self) -> str:
        """What messages call it: the URL as far as it may be shown."""

    @property
    def held(self) -> float:
        """For how many seconds `chunks` was held back by our own limit."""

    def all_headers(self, name: str) -> list[str]:
        """Return every field called `name`."""

    def close(self) -> None:
        """Give the connection back if the body was read to its end, and close it otherwise."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives.

        :raises ReadInterrupted: when it ends before its announced length.
        :raises TimedOut: when nothing comes for too long.
        """

    async def read(self, limit: int) -> bytes:
        """Return the whole body.

        :raises SizeMismatch: when it is longer than `limit` bytes; no more than those are held.
        :raises ReadInterrupted: when it ends before its announced length.
        :raises TimedOut: when nothing comes for too long.
        """


class Transport(Protocol):
    """Sends a request."""

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
        """Send one request, over a connection of its own if it is to be `fresh`; `name` is what messages call it.

        A streamed `body` has its `Content-Length` in `headers`.

        :raises ConnectFailed: no connection, or TLS failed.
        :raises TimedOut: no answer in time.
        :raises ReadInterrupted: the connection broke, or the answer was not HTTP.
        :raises UnsafeRedirect: the address may not be reached from here.
        """


class AiohttpTransport:
    """Transport over one aiohttp session. Use it as an async context manager."""

    def __init__(
        self,
        *,
        socket_factory: Callable[[tuple[Any, ...]], socket.socket],
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        pace: RateLimiter | None = None,
        find_proxy: Callable[[str], str | None] | None = None,
    ) -> None:
        self._pace = pace
        self._timeouts = timeouts or Timeouts()
        self._tls = tls
        self._socket_factory = socket_factory
        self._find_proxy = find_proxy
        # By whether it goes through a proxy, and whether each request has a connection of its own.
        self._sessions: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def __aenter__(self) -> AiohttpTransport:
        return self

    def _session(self, *, proxied: bool, fresh: bool) -> aiohttp.ClientSession:
        if (proxied, fresh) not in self._sessions:
            # The user named the proxy: it may be anywhere. Where it goes from there nobody can see from here.
            self._sessions[proxied, fresh] = self._open(None if proxied else self._socket_factory, fresh=fresh)

        return self._sessions[proxied, fresh]

    def _open(
        self, socket_factory: Callable[[tuple[Any, ...]], socket.socket] | None, *, fresh: bool
    ) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the gates decide how much goes where, for each host by itself
            ttl_dns_cache=300,
            force_close=fresh,
            # aiodns, where it happens to be installed, would take over and ignore nsswitch.
            resolver=aiohttp.ThreadedResolver(),
            socket_factory=socket_factory,
            ssl=self._tls if self._tls is not None else True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # would also read ~/.netrc and send what it finds there
            # No sock_read: where a body ends while its connection was paused, that clock goes on running when nobody
            # uses it any more, and breaks it for the next request (aiohttp 3.14, issue 12953). We time our waiting.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            headers={"User-Agent": USER_AGENT},
            read_bufsize=64 * 1024 if self._pace is None else _piece(self._pace),
        )

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            for session in self._sessions.values():
                await session.close()

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
        """Send one request; see `Transport.send`."""
        name = name or shown(url)
        proxy = self._find_proxy(url) if self._find_proxy is not None else None
        session = self._session(proxied=proxy is not None, fresh=fresh)
        with _translated(url, name):
            # Without identity Quay compresses blobs on the fly, and their bytes no longer have their digest.
            sent = {"Accept-Encoding": "identity", **headers}
            with anyio.fail_after(self._timeouts.headers) as patience:
                data = self._watched(body, patience) if isinstance(body, AsyncIterable) else _payload(body)
                response = await session.request(
                    method, _exact(url), headers=sent, data=data, allow_redirects=False, proxy=proxy
                )

        return _AiohttpResponse(response, url, name, self._pace, stall=self._timeouts.stall)

    async def _watched(self, body: AsyncIterable[bytes], patience: anyio.CancelScope) -> AsyncIterator[bytes]:
        """Pass `body` on; the server's time runs while it should take a chunk or answer, not while we have none."""
        patience.deadline = math.inf
        async for chunk in body:
            patience.deadline = anyio.current_time() + self._timeouts.stall
            yield chunk
            patience.deadline = math.inf

        patience.deadline = anyio.current_time() + self._timeouts.headers


def _exact(url: str) -> URL:
    """Return `url` so that its path and query are sent as they are: yarl would normalise what it parses itself."""
    return _root(Origin.of(url)).with_path(request_target(url), encoded=True)


@lru_cache(maxsize=256)
def _root(origin: Origin) -> URL:
    return URL(str(origin))


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Let what is large be sent piece by piece, and the loop turn in between."""
    return io.BytesIO(body) if body is not None and len(body) > _MOST_AT_ONCE else body


def _piece(pace: RateLimiter) -> int:
    """How much to read at a time under a limit: small enough for an even flow, large enough not to cost much."""
    return min(512 * 1024, max(4 * 1024, int(pace.rate / 20)))


class _AiohttpResponse:
    def __init__(
        self, response: aiohttp.ClientResponse, url: str, name: str, pace: RateLimiter | None, *, stall: float
    ) -> None:
        self._response = response
        self._pace = pace
        self._patience = _Patience(response.content, stall)
        self.held = 0.0
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.name = name

    def all_headers(self, name: str) -> list[str]:
        return self._response.headers.getall(name, [])

    def close(self) -> None:
        self._patience.end()
        self._response.release()

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._chunk():
            if self._pace is not None:
                self.held += await self._pace.take(len(chunk))

            yield chunk

    async def _chunk(self) -> bytes:
        content = self._response.content
        with _translated(self.url, self.name):
            most = -1 if self._pace is None else _piece(self._pace)
            if (chunk := content.read_nowait(most)) or content.at_eof():
                return chunk

            self._patience.begin()
            try:
                return await (content.readany() if self._pace is None else content.read(most))
            finally:
                self._patience.pause()

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        while chunk := await self._chunk():
            if self._pace is not None:
                self._pace.spend(len(chunk))  # small answers don't wait: the next blob does, for them, too

            body += chunk
            if len(body) > limit:
                raise SizeMismatch(f"{self.name}: answer of more than {limit:,} bytes", scope=Scope.IMAGE)

        return bytes(body)


class _Patience:
    """Fails a body for which one has waited too long. Over TLS there is a wait for each record: they share a timer."""

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Note that one waits from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def pause(self) -> None:
        """Note that one does not wait any more, for now."""
        self._since = None

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return

        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._content.set_exception(TimeoutError())


class _translated:  # noqa: N801 - as contextlib's: a context that is entered for each chunk
    """Turn what aiohttp raises into our own errors; `from None`, since theirs can hold credentials."""

    __slots__ = ("_name", "_url")

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, aiohttp.ClientError | OSError | ssl.SSLError | ValueError):
            raise _translation(error, self._url, self._name) from None


def _translation(error: Exception, url: str, name: str) -> QuaymirrorError:
    host = Origin.of(url).netloc
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return CertificateRefused(f"{host}: the TLS certificate is not trusted: {_reason(error)}")
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, AddressRefused):
            return UnsafeRedirect(f"a server sent us to {host}, which is a private address: refused")
        case aiohttp.ClientHttpProxyError(status=407):
            return ConnectFailed(f"{host}: {PROXY_REFUSES}", scope=Scope.IMAGE)
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return ConnectFailed(f"{host}: {_unconnected(error)}")
        case aiohttp.ConnectionTimeoutError():
            return TimedOut(f"{host}: no connection in time")
        case TimeoutError():
            return TimedOut(f"{name}: no answer, or no more of it, in time")
        case aiohttp.ClientPayloadError():
            return ReadInterrupted(f"{name}: the answer ended early")
        case aiohttp.ClientResponseError():
            # What the parser raises carries status 400, although no server said so.
            return ReadInterrupted(f"{name}: the answer is not proper HTTP")
        case aiohttp.InvalidURL() | ValueError():
            return UnsafeRedirect(f"{host}: not a usable URL")
        case _:
            return ReadInterrupted(f"{name}: the connection broke")


def _unconnected(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return f"can't connect to the proxy: {_reason(error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"no such host, or no name service: {_reason(error)}"
        case _:
            return f"can't connect: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The operating system's or OpenSSL's own words, which hold neither headers nor URLs."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0 and not isinstance(cause, ssl.SSLError):
        return os.strerror(number).lower()

    return str(getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(cause).__name__)
