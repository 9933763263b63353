"""The transport over aiohttp, and its only importer.

It follows no redirects, uses neither cookies nor `~/.netrc`, and decodes no bodies. Exceptions of aiohttp are
translated, since their texts hold headers and signed URLs.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - by name services: when it is needed, descriptors may have run out
import io
import math
import os
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio
from yarl import URL

from ..errors import ConnectFailed, NameUnknown, QuaymirrorError, Scope, SizeMismatch, UnsafeRedirect
from . import failures
from .answers import PROXY_REFUSES
from .exchange import USER_AGENT, Response
from .guard import AddressRefused
from .origin import Origin, authority, request_target, shown
from .rate import Throttle
from .timeouts import Timeouts
from .tls import system_context, without_authorities

if TYPE_CHECKING:
    from .helper import Helper, Site
    from .threads import ThreadTransport

# It makes two contexts, which take 40 ms. A session that needs TLS gets `system_context`, or that of its options.
with without_authorities():
    import aiohttp

_MAX_WRITE = 512 * 1024
# A thread receives bodies from these sizes on, over a connection of its own. Below, a hop to it costs more than it
# saves; over TLS it takes longer, record by record, while others wait for the interpreter.
_LEAST_BYTES = 1024 * 1024
_LEAST_SECURE_BYTES = 32 * 1024 * 1024


class AiohttpTransport:
    """A transport with aiohttp sessions, used as an async context manager. `bandwidth` limits the bytes of bodies.

    Large bodies are received by threads, or by `helper`, which then connects as its second value says.
    """

    def __init__(
        self,
        *,
        socket_factory: Callable[[tuple[Any, ...]], socket.socket],
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        bandwidth: Throttle | None = None,
        find_proxy: Callable[[str], str | None] | None = None,
        helper: tuple[Helper, Site] | None = None,
    ) -> None:
        timeouts = timeouts or Timeouts()
        self._helper = helper
        self._bandwidth = bandwidth
        self._headers_seconds, self._stall_seconds = timeouts.headers, timeouts.stall
        self._find_proxy = find_proxy
        # By whether TLS and a proxy are used, and whether each request has a new connection.
        self._sessions: dict[tuple[bool, bool, bool], aiohttp.ClientSession] = {}
        read_size = 64 * 1024 if bandwidth is None else _read_size(bandwidth)

        def open_session(*, secure: bool, proxied: bool, fresh: bool) -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(
                limit=0,  # the limiters decide, for each host
                ttl_dns_cache=300,
                force_close=fresh,
                # aiodns, if installed, would be used instead and ignore nsswitch.
                resolver=_Resolver(),
                # The user named the proxy, so it may have any address. Its own connections are not visible from here.
                socket_factory=None if proxied else socket_factory,
                ssl=tls or (system_context() if secure or proxied else True),
            )
            return aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # it would also send credentials from ~/.netrc
                # No sock_read: if a body ends while its connection is paused, that timer keeps running and breaks the
                # connection for the next request (aiohttp 3.14, issue 12953). `_StallTimer` replaces it.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
                headers={"User-Agent": USER_AGENT},
                read_bufsize=read_size,
            )

        self._open = open_session
        self._threads: ThreadTransport | None = None

        def open_threads() -> ThreadTransport:
            # Imported when it is needed: a night without changes fetches no blob.
            from .threads import ThreadTransport

            return ThreadTransport(socket_factory=socket_factory, timeouts=timeouts, tls=tls)

        self._open_threads = open_threads

    async def __aenter__(self) -> AiohttpTransport:
        return self

    def _session(self, *, secure: bool, proxied: bool, fresh: bool) -> aiohttp.ClientSession:
        key = secure, proxied, fresh
        if key not in self._sessions:
            self._sessions[key] = self._open(secure=secure, proxied=proxied, fresh=fresh)

        return self._sessions[key]

    async def __aexit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.close()

        with anyio.CancelScope(shield=True):
            for session in self._sessions.values():
                await session.close()

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
        """Request a body that may be large; see `Transport.send_large`."""
        proxy = self._find_proxy(url) if self._find_proxy is not None else None
        if self._bandwidth is not None or proxy is not None:
            # The event loop controls the flow of limited bodies, and aiohttp knows proxies.
            return await self.send("GET", url, headers, name=name, fresh=fresh)

        if to_file and self._helper is not None:
            helper, site = self._helper
            if helper.takes(size):
                return await helper.open(site, url, headers, name=name, fresh=fresh)

        if size < (_LEAST_SECURE_BYTES if url.startswith("https:") else _LEAST_BYTES):
            return await self.send("GET", url, headers, name=name, fresh=fresh)

        if self._threads is None:
            self._threads = self._open_threads()

        return await self._threads.open(url, headers, name=name, fresh=fresh)

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
        with _Translated(url, name):
            session = self._session(secure=url.startswith("https:"), proxied=proxy is not None, fresh=fresh)
            # Without identity Quay compresses blobs on the fly, and their bytes no longer match their digest.
            sent = {"Accept-Encoding": "identity", **headers}
            # What fail_after does, without its generator: it is called for each request.
            with anyio.CancelScope(deadline=anyio.current_time() + self._headers_seconds) as scope:
                data = self._timed(body, scope) if isinstance(body, AsyncIterable) else _payload(body)
                response = await session.request(
                    method, _exact(url), headers=sent, data=data, allow_redirects=False, proxy=proxy
                )

            if scope.cancelled_caught:
                raise TimeoutError

        return _AiohttpResponse(response, url, name, self._bandwidth, stall=self._stall_seconds)

    async def _timed(self, body: AsyncIterable[bytes], scope: anyio.CancelScope) -> AsyncIterator[bytes]:
        """Pass on `body`. The timeout runs while the server should take a chunk or answer, not for `body` itself."""
        scope.deadline = math.inf
        async for chunk in body:
            scope.deadline = anyio.current_time() + self._stall_seconds
            yield chunk
            scope.deadline = math.inf

        scope.deadline = anyio.current_time() + self._headers_seconds


class _Resolver(aiohttp.ThreadedResolver):
    """Names the lack of descriptors, which the name service reports as a name that it does not know."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        try:
            return await super().resolve(host, port, family)
        except OSError:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            raise


def _exact(url: str) -> URL:
    """Return `url` so that its path and query are sent as they are: yarl would normalise what it parses itself."""
    return _root(authority(url)).with_path(request_target(url), encoded=True)


@lru_cache(maxsize=256)
def _root(url: str) -> URL:
    return URL(str(Origin.of(url)))


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return `body`; a large one as a file, which aiohttp sends in parts so that the event loop is not blocked."""
    return io.BytesIO(body) if body is not None and len(body) > _MAX_WRITE else body


def _read_size(bandwidth: Throttle) -> int:
    """Return how many bytes to read at a time under a limit: few enough for an even flow, enough to be cheap."""
    return min(512 * 1024, max(4 * 1024, int(bandwidth.rate / 20)))


class _AiohttpResponse:
    def __init__(
        self, response: aiohttp.ClientResponse, url: str, name: str, bandwidth: Throttle | None, *, stall: float
    ) -> None:
        self._response = response
        self._bandwidth = bandwidth
        self._timer = _StallTimer(response.content, stall)
        self.held = 0.0
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.name = name
        self.threaded = None

    @property
    def has_arrived(self) -> bool:
        return self._response.content.is_eof()

    def all_headers(self, name: str) -> list[str]:
        return self._response.headers.getall(name, [])

    def close(self) -> None:
        self._timer.cancel()
        self._response.release()

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._chunk():
            if self._bandwidth is not None:
                self.held += await self._bandwidth.take(len(chunk))

            yield chunk

    async def _chunk(self) -> bytes:
        content = self._response.content
        with _Translated(self.url, self.name):
            most = -1 if self._bandwidth is None else _read_size(self._bandwidth)
            if (chunk := content.read_nowait(most)) or content.at_eof():
                return chunk

            self._timer.start()
            try:
                return await (content.readany() if self._bandwidth is None else content.read(most))
            finally:
                self._timer.suspend()

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        while chunk := await self._chunk():
            if self._bandwidth is not None:
                self._bandwidth.spend(len(chunk))  # small bodies don't wait; the next blob waits longer instead

            body += chunk
            if len(body) > limit:
                raise SizeMismatch(f"{self.name}: answer of more than {limit:,} bytes", scope=Scope.IMAGE)

        return bytes(body)


class _StallTimer:
    """Fails a body for which the reader waits too long. All waits share a timer: with TLS each record has one."""

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the read timeout."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)

    def suspend(self) -> None:
        """Suspend it."""
        self._since = None

    def cancel(self) -> None:
        """Cancel it."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._since is None:
            return

        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._content.set_exception(TimeoutError())


class _Translated:
    """Turns the exceptions of aiohttp into our own errors, without their texts, which can hold credentials."""

    __slots__ = ("_name", "_url")

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, aiohttp.ClientError | OSError | ssl.SSLError | ValueError):
            lack = failures.lack(error, Origin.of(self._url).netloc) if isinstance(error, OSError) else None
            raise lack or _translation(error, self._url, self._name) from None


def _translation(error: Exception, url: str, name: str) -> QuaymirrorError:
    host = Origin.of(url).netloc
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError() | ssl.SSLError():
            return _connection_error(error, host)
        case aiohttp.ConnectionTimeoutError():
            return failures.connection_timed_out(host)
        case TimeoutError():
            return failures.silent(name)
        case aiohttp.ClientPayloadError():
            return failures.ended_early(name)
        case aiohttp.ClientResponseError():
            # Errors of the parser have the status 400, although no server sent it.
            return failures.invalid(name)
        case aiohttp.InvalidURL() | ValueError():
            return UnsafeRedirect(f"{host}: not a usable URL")
        case aiohttp.ServerDisconnectedError() if url.startswith("http:"):
            return failures.broken_before_answer(name)
        case _:
            return failures.broken(name)


def _connection_error(error: Exception, host: str) -> QuaymirrorError:
    """Return the error for a connection that could not be made."""
    cause = getattr(error, "os_error", None)
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return failures.certificate_refused(host, error)
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return failures.tls_failed(host, error)
        case aiohttp.ClientConnectorDNSError() if getattr(cause, "errno", None) in failures.NO_SUCH_NAME:
            return NameUnknown(f"{host}: {_unconnected(error)}")
        case _ if isinstance(cause, AddressRefused):
            return failures.private_address(host)
        case aiohttp.ClientHttpProxyError(status=407):
            return ConnectFailed(f"{host}: {PROXY_REFUSES}", scope=Scope.IMAGE)
        case _:
            return ConnectFailed(f"{host}: {_unconnected(error)}")


def _unconnected(error: Exception) -> str:
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return f"cannot connect to the proxy: {failures.reason(error)}"
        case aiohttp.ClientConnectorDNSError():
            return failures.unresolved(error)
        case _:
            return failures.unconnected(error)
