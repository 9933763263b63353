"""The server: connections, bodies, limits and the log. The only importer of aiohttp.web."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from ..errors import ConfigError, StoreError, reason_of
from .access_log import AccessLog, Record
from .messages import Answer, BlobPart, Request, error_answer
from .options import SYSTEMD, ServeOptions, address
from .repeats import Repeat, Repeats, is_one_request
from .site import Site

# One call of sendfile; a client that takes longer for it than `stall_seconds` is too slow.
_SEGMENT_BYTES = 4 * 1024 * 1024
# Read in a thread, and written in slices: larger ones are copied more often by asyncio's TLS.
_READ_BYTES = 1024 * 1024
_WRITE_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0
_BACKLOG = 1024
# Descriptors beside connections: each may have a file open, and the state and the log need some.
_FILES_PER_CONNECTION = 2
_OTHER_FILES = 32
# How long a connection may repeat answers between two requests that aiohttp gets.
_REPEAT_SECONDS = 1.0
# What answers depend on is read again each second.
_REPEATED = frozenset({"blobs", "catalog", "manifests", "ping", "referrers", "tags"})
_ALWAYS = {"Server": "quaymirror", "X-Content-Type-Options": "nosniff"}
_SILENT = logging.Logger("quaymirror.serve", logging.CRITICAL + 1)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Count = Callable[[str, Record], None]


class _Connection(RequestHandler):
    """A connection that repeats answers of the last moment by itself; aiohttp gets all other requests.

    It repeats nothing while aiohttp may have bytes of another request, or while the client does not read. aiohttp gets
    a request at least once a second, since it closes connections that seem to be idle.
    """

    __slots__ = ("_count", "_head", "_is_free", "_remote", "_repeat_until", "_repeats")

    def __init__(self, manager: _Server, repeats: Repeats, count: Count, **more: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **more)
        self._repeats = repeats
        self._count = count
        self._is_free = True
        self._head: bytes | None = None
        self._remote = ""
        self._repeat_until = 0.0

    def data_received(self, data: bytes) -> None:
        """Answer `data` if it is a request that was answered a moment ago."""
        began = time.monotonic()
        if self._is_free and began < self._repeat_until:
            repeat, transport = self._repeats.find(data), self.transport
            if repeat is not None and transport is not None and not transport.get_write_buffer_size():
                transport.write(repeat.content)
                seconds = time.monotonic() - began
                self._count(repeat.kind, replace(repeat.record, remote=self._remote, seconds=seconds))
                return

        self._head = data if self._is_free and is_one_request(data) else None
        self._is_free = False
        super().data_received(data)

    def answered(self, source: web.BaseRequest) -> bytes | None:
        """Note that a request has been answered; return its bytes, None if others came with them."""
        head = None if source.body_exists else self._head
        if head is not None:
            self._is_free, self._remote = True, source.remote or ""
            self._repeat_until = time.monotonic() + _REPEAT_SECONDS

        return head


class _Server(web.Server):
    """A server with at most `most` connections; further ones are closed at once."""

    def __init__(self, handler: Handler, most: int, connect: Callable[[_Server], _Connection]) -> None:
        super().__init__(handler)
        self._most = most
        self._connect = connect

    def __call__(self) -> RequestHandler:
        protocol = self._connect(self)
        if len(self._connections) >= self._most:
            protocol.force_close()

        return protocol

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._most:
            # After the task of the connection has begun: it would fail without one.
            asyncio.get_running_loop().call_soon(transport.abort)


class HttpServer:
    """A server of `site` at the address of `options`; a context."""

    def __init__(self, site: Site, options: ServeOptions, log: AccessLog) -> None:
        self._site = site
        self._options = options
        self._log = log
        self._runner: web.ServerRunner | None = None
        self._server: _Server | None = None
        self._repeats = Repeats()
        self._tls = _tls_context(options)
        self._tls_stamp = _stamp(options)

    @property
    def url(self) -> str:
        """The address with the scheme and the port that is used."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    async def __aenter__(self) -> HttpServer:
        """Listen.

        :raises ConfigError: if the address can't be used.
        :raises StoreError: for lack of descriptors.
        """
        options = self._options
        most = min(options.max_connections, _most_connections())
        self._server = _Server(self._handle, most, self._connect)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=options.stop_seconds)
        await self._runner.setup()
        try:
            await self._place(options.listen).start()
        except ConfigError:
            await self._runner.cleanup()
            raise
        except (OSError, UnicodeError) as error:
            await self._runner.cleanup()
            reason = reason_of(error) if isinstance(error, OSError) else "not a host name"
            raise ConfigError(f"can't listen at {options.listen}: {_in_use(error) or reason}") from None

        if not self._runner.addresses:
            # asyncio takes the lack of a descriptor for an address that can't be used.
            await self._runner.cleanup()
            raise StoreError(f"can't listen at {options.listen}: too many open files: see ulimit -n")

        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, let transfers end for a while, and close all connections."""
        assert self._runner is not None
        await self._runner.cleanup()

    def _place(self, listen: str) -> web.BaseSite:
        assert self._runner is not None
        if listen == SYSTEMD:
            from .listening import passed_socket

            return web.SockSite(self._runner, passed_socket(), ssl_context=self._tls, backlog=_BACKLOG)

        host, port = address(listen)
        return web.TCPSite(self._runner, host or None, port, ssl_context=self._tls, backlog=_BACKLOG)

    def _connect(self, server: _Server) -> _Connection:
        return _Connection(
            server,
            self._repeats,
            self._count,
            keepalive_timeout=self._options.idle_seconds,
            lingering_time=_LINGER_SECONDS,
            logger=_SILENT,
            access_log=None,
        )

    def forget(self) -> None:
        """Repeat no earlier answer, since their content may have changed."""
        self._repeats.clear()

    def refresh(self) -> None:
        """Read the certificate again if its files have changed.

        :raises ConfigError: if they can't be used; the earlier certificate stays.
        """
        stamp = _stamp(self._options)
        if self._tls is not None and stamp != self._tls_stamp:
            self._tls_stamp = stamp
            _load(self._tls, self._options)

    async def _handle(self, source: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        request = Request(source.method, source.path, source.query, source.headers)
        self._site.connections = len(self._server.connections) if request.path == "/metrics" and self._server else 0
        try:
            answer = await self._site.answer(request)
        except Exception as error:
            answer = error_answer(500, "UNKNOWN", "internal error", note=f"internal error: {type(error).__name__}")

        record = Record(
            remote=source.remote or "",
            method=request.method,
            path=request.path,
            status=answer.status,
            bytes=0,
            seconds=0.0,
            agent=source.headers.get("User-Agent", ""),
            namespace=source.query.get("ns", ""),
            note=answer.note,
        )
        sent = 0
        try:
            response, sent = await self._send(source, answer)
            self._may_repeat(source, answer, response, replace(record, bytes=sent), began)
            return response
        finally:
            self._count(answer.kind, replace(record, bytes=sent, seconds=time.monotonic() - began))

    def _count(self, kind: str, record: Record) -> None:
        self._log.add(record)
        self._site.metrics.add(kind, record)

    def _may_repeat(
        self, source: web.BaseRequest, answer: Answer, response: web.StreamResponse, record: Record, began: float
    ) -> None:
        """Keep an answer that was sent, if it is one to repeat."""
        head = source.protocol.answered(source) if isinstance(source.protocol, _Connection) else None
        is_repeated = answer.kind in _REPEATED and answer.status < 400 and response.keep_alive
        if head is None or not is_repeated or answer.length is not None or isinstance(answer.body, BlobPart):
            return

        version = f"HTTP/{source.version.major}.{source.version.minor}"
        fields = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        lines = f"{version} {response.status} {response.reason}\r\n{fields}\r\n"
        body = answer.body if record.bytes else b""
        self._repeats.keep(head, Repeat(lines.encode() + body, answer.kind, record), began)

    async def _send(self, source: web.BaseRequest, answer: Answer) -> tuple[web.StreamResponse, int]:
        body, headers = answer.body, {**_ALWAYS, **answer.headers}
        if isinstance(body, BlobPart):
            try:
                return await self._send_blob(source, answer.status, headers, body)
            finally:
                body.blob.close()

        if answer.events is not None and source.method == "GET":
            return await self._send_events(source, headers, answer)

        if answer.length is not None:
            headers["Content-Length"] = str(answer.length)
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(source)
            await response.write_eof()
            return response, 0

        whole = web.Response(status=answer.status, headers=headers, body=body)
        await whole.prepare(source)
        try:
            async with asyncio.timeout(self._options.stall_seconds):
                await whole.write_eof()
                # Answers that the client does not read must not pile up here.
                await source.writer.drain()
        except TimeoutError:
            if source.transport is not None:
                source.transport.abort()

            raise ConnectionResetError from None

        return whole, 0 if source.method == "HEAD" else len(body)

    async def _send_blob(
        self, source: web.BaseRequest, status: int, headers: dict[str, str], part: BlobPart
    ) -> tuple[web.StreamResponse, int]:
        """Send a part of a file. If it ends early, or the client does not read, the connection is broken off."""
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(part.count)})
        await response.prepare(source)
        transport, is_whole = source.transport, False
        try:
            if transport is None:
                raise ConnectionResetError

            await self._copy(response, transport, part)
            await response.write_eof()
            is_whole = True
        except (TimeoutError, EOFError):
            raise ConnectionResetError from None
        finally:
            if not is_whole and transport is not None:
                transport.abort()

        return response, part.count

    async def _copy(self, response: web.StreamResponse, transport: asyncio.Transport, part: BlobPart) -> None:
        position, end = part.start, part.start + part.count
        sends_files = part.blob.is_local and self._tls is None
        if not sends_files:
            part.blob.file.seek(position)

        loop = asyncio.get_running_loop()
        while position < end:
            async with asyncio.timeout(self._options.stall_seconds):
                if sends_files:
                    count = min(_SEGMENT_BYTES, end - position)
                    try:
                        sent = await loop.sendfile(transport, part.blob.file, position, count, fallback=False)
                    except (NotImplementedError, asyncio.SendfileNotAvailableError):
                        sends_files = False  # another event loop
                        part.blob.file.seek(position)
                        continue
                else:
                    sent = await self._copy_some(response, part, min(_READ_BYTES, end - position))

            if sent == 0:
                raise EOFError  # the file was cut: nothing that follows would be right

            position += sent

    async def _copy_some(self, response: web.StreamResponse, part: BlobPart, count: int) -> int:
        content = memoryview(await part.content.in_thread(part.blob, count))
        for start in range(0, len(content), _WRITE_BYTES):
            await response.write(content[start : start + _WRITE_BYTES])

        return len(content)

    async def _send_events(
        self, source: web.BaseRequest, headers: dict[str, str], answer: Answer
    ) -> tuple[web.StreamResponse, int]:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(source)
        sent = 0
        assert answer.events is not None
        with suppress(ConnectionError):
            async for chunk in answer.events:
                async with asyncio.timeout(self._options.stall_seconds):
                    await response.write(chunk)

                sent += len(chunk)

        return response, sent


def _most_connections() -> int:
    """Return how many connections the limit of open files allows, after raising it as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard

    if soft == resource.RLIM_INFINITY:
        return 1_000_000

    return max(1, (soft - _OTHER_FILES) // _FILES_PER_CONNECTION)


def _in_use(error: Exception) -> str:
    import errno

    if isinstance(error, OSError) and (error.errno == errno.EADDRINUSE or "in use" in str(error)):
        return "another program listens there"

    return ""


def _tls_context(options: ServeOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        return None

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, options)
    return context


def _load(context: ssl.SSLContext, options: ServeOptions) -> None:
    assert options.tls_cert is not None
    try:
        # Never ask for the password of a key on the terminal.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = "not a certificate and its key" if isinstance(error, ssl.SSLError) else str(error)
        raise ConfigError(f"can't use {options.tls_cert} and {options.tls_key}: {reason}") from None


def _stamp(options: ServeOptions) -> tuple[int, ...]:
    stamps: list[int] = []
    for path in (options.tls_cert, options.tls_key):
        if path is not None:
            with suppress(OSError):
                status = path.stat()
                stamps += [status.st_ino, status.st_mtime_ns]

    return tuple(stamps)


def quiet_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Keep asyncio from printing tracebacks about clients that break off, or don't speak TLS."""
    known = (ConnectionError, ssl.SSLError, TimeoutError, OSError)
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # After a lack of descriptors asyncio accepts again in a second, even if the socket has been closed meanwhile.
        is_late = isinstance(error, ValueError) and "_start_serving" in str(context.get("message"))
        if error is not None and not isinstance(error, known) and not is_late:
            loop.default_exception_handler(context) if before is None else before(loop, context)

    loop.set_exception_handler(handle)
