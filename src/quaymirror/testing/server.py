"""A Quay-like server in this process, on two free loopback ports: Quay itself, and the origin its blobs come from."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from types import TracebackType

from aiohttp import web

from quaymirror.testing.api import Api
from quaymirror.testing.cdn import Cdn, digest_in
from quaymirror.testing.delivery import Courier, drop
from quaymirror.testing.distribution import Distribution
from quaymirror.testing.faults import Fault
from quaymirror.testing.limits import LimitRule, Monotonic, RateLimiter
from quaymirror.testing.messages import Answer, Request, nginx_page, not_found_page
from quaymirror.testing.organization import Registry
from quaymirror.testing.recording import Listener, Recorder, RequestHook, RequestRecord
from quaymirror.testing.site import Site
from quaymirror.testing.tokens import Tokens
from quaymirror.testing.upstream import Upstream

# How long requests under way may take to notice that the server stops; idle connections cost it too.
_SHUTDOWN_S = 0.02
_Handler = Callable[[Request], Awaitable[Answer]]


class _Socket:
    """One listening port, which keeps its number when closed and opened again."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], host: str) -> None:
        self._handler = handler
        self._host = host
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def open(self, tls: ssl.SSLContext | None) -> None:
        # Handlers are cancelled when their client leaves, so a stalled answer ends with its connection.
        server = web.Server(self._handler, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        # asyncio takes the lack of a descriptor for an address that can't be used, and would listen nowhere.
        listener = socket.create_server((self._host, self.port), backlog=1024)
        await web.SockSite(self._runner, listener, ssl_context=tls, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        server = runner.server
        transports = [connection.transport for connection in server.connections] if server else []
        await runner.cleanup()
        # A client that stops reading keeps a closing transport alive, with unsent bytes.
        for transport in transports:
            if transport is not None:
                transport.abort()
        # Connections are lost one loop iteration after their transport was aborted, under TLS two.
        for _ in range(3):
            await asyncio.sleep(0)


class QuayServer:
    """A Quay-compatible server on a loopback address.

    Use it as ``async with QuayServer(registry) as server``. The registry may be changed while it runs, with
    immediate effect, and so may the list `faults`; `requests` has the requests so far.

    Args:
        registry: The content.
        host: The address to bind, and the name in all links.
        latency: Seconds before each answer.
        redirect_blobs: Whether blobs are redirected to the CDN, as at quay.io, or streamed by Quay itself.
        token_lifetime: Of registry tokens, in seconds.
        require_token: Whether public repositories need a registry token too, as at other registries.
        limits: Request limits of Quay's listener, such as `QUAY_NGINX_HTTP1`.
        bandwidth: Of each CDN connection, in bytes per second.
        tls: The context of both listeners.
        upstream: The URL of a real registry that serves manifests and blobs in place of the model.
        close_connections: Whether API, token and blob answers close the connection, as Quay's nginx does.
        quota_report: Whether repository lists have the field of that name.
        public_catalog: Whether ``_catalog`` shows public repositories.
        referrers_page: Referrers per page, 0 for all in one as Quay does it.
        tag_list_cache: Seconds for which ``tags/list`` may lag behind pushes; Quay's own value is 120.
        on_request: Called with each request's record as it arrives.
        monotonic: The clock of the limits.
        seed: The seed of faults with a probability.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        host: str = "127.0.0.1",
        latency: float = 0.0,
        redirect_blobs: bool = True,
        token_lifetime: float = 3600,
        require_token: bool = False,
        limits: Sequence[LimitRule] | None = None,
        bandwidth: float | None = None,
        tls: ssl.SSLContext | None = None,
        upstream: str | None = None,
        close_connections: bool = True,
        quota_report: bool = False,
        public_catalog: bool = False,
        referrers_page: int = 0,
        tag_list_cache: float = 0.0,
        on_request: RequestHook | None = None,
        monotonic: Monotonic = time.monotonic,
        seed: int = 0,
    ) -> None:
        self.registry = registry
        self.latency = latency
        self.faults: list[Fault] = []
        self.on_request = on_request
        self.recorder: Recorder = Recorder()
        self._site = Site(
            registry=registry,
            redirect_blobs=redirect_blobs,
            token_lifetime=token_lifetime,
            require_token=require_token,
            quota_report=quota_report,
            public_catalog=public_catalog,
            referrers_page=referrers_page,
            tag_list_cache=tag_list_cache,
        )
        self._host = host
        self._tls = tls
        self._close_connections = close_connections
        self._limiter = RateLimiter(limits, clock=monotonic) if limits else None
        self._random = random.Random(seed)
        self._closing = asyncio.Event()
        speeds = {"quay": None, "cdn": bandwidth}
        self._couriers = {name: Courier(bandwidth=speed, closing=self._closing) for name, speed in speeds.items()}
        self._tokens = Tokens(self._site)
        self._api = Api(self._site)
        self._distribution = Distribution(self._site, self._tokens)
        self._cdn = Cdn(self._site)
        self._upstream = Upstream(self._site, upstream) if upstream else None
        self._sockets = {"quay": _Socket(self._serve_quay, host), "cdn": _Socket(self._serve_cdn, host)}

    def __repr__(self) -> str:
        return f"<QuayServer {self.url or 'not started'} {len(self.requests)} requests, {len(self.faults)} faults>"

    async def __aenter__(self) -> QuayServer:
        if self._upstream is not None:
            await self._upstream.__aenter__()
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if self._upstream is not None:
            await self._upstream.__aexit__(kind, error, traceback)

    async def open(self) -> None:
        """Listen; after `close`, on the same ports again."""
        self._closing.clear()
        for listener in self._sockets.values():
            await listener.open(self._tls)
        scheme = "https" if self._tls else "http"
        self._site.host = f"{self._host}:{self._sockets['quay'].port}"
        self._site.url = f"{scheme}://{self._site.host}"
        self._site.cdn_url = f"{scheme}://{self._host}:{self._sockets['cdn'].port}"

    async def close(self) -> None:
        """Stop listening and drop all connections: an outage, until `open` is called."""
        self._closing.set()
        for listener in self._sockets.values():
            await listener.close()

    @property
    def url(self) -> str:
        """Base URL of Quay."""
        return self._site.url

    @property
    def cdn_url(self) -> str:
        """Base URL of the origin that blobs come from."""
        return self._site.cdn_url

    @property
    def host(self) -> str:
        """``host:port`` of Quay, the registry part of an image reference."""
        return self._site.host

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests so far, in order of arrival."""
        return self.recorder.requests

    @property
    def peak_in_flight(self) -> int:
        """The most requests that were being answered at one time."""
        return self.recorder.peak_in_flight

    def count(self, path_regex: str, *, method: str | None = None, listener: Listener | None = None) -> int:
        """Return how many requests had a path in which *path_regex* is found."""
        return len(self.recorder.matching(path_regex, method=method, listener=listener))

    def blob_bytes(self) -> int:
        """Return how many bytes of blobs were sent by either listener, those of broken transfers included."""
        return self.recorder.blob_bytes()

    def reset_records(self) -> None:
        """Forget all requests so far."""
        self.recorder.reset()

    async def _serve_quay(self, source: web.BaseRequest) -> web.StreamResponse:
        return await self._serve("quay", self._answer_quay, source)

    async def _serve_cdn(self, source: web.BaseRequest) -> web.StreamResponse:
        return await self._serve("cdn", self._answer_cdn, source)

    async def _serve(self, listener: Listener, handler: _Handler, source: web.BaseRequest) -> web.StreamResponse:
        body = await source.read() if source.method == "POST" else b""
        request = Request(
            source.method, source.path, source.rel_url.raw_query_string, source.query, source.headers, body
        )
        record = self._record(listener, request, source)
        honest: Answer | None = None
        try:
            acting = [fault for fault in self.faults if fault.takes(request, listener, self._random)]
            for fault in acting:
                request = fault.action.on_request(request)
            honest = answer = await self._honest(listener, handler, request, source)
            for fault in acting:
                answer = fault.action.on_answer(answer, source)
            return await self._couriers[listener].deliver(source, self._dressed(answer), record)
        except ConnectionError:
            # The server closes, or the client has disconnected: this is no error.
            return drop(source)
        finally:
            if honest is not None and not isinstance(honest.body, bytes | memoryview):
                honest.body.close()
            self.recorder.end(record)

    def _record(self, listener: Listener, request: Request, source: web.BaseRequest) -> RequestRecord:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        address = source.transport.get_extra_info("peername") if source.transport else None
        peer = f"{address[0]}:{address[1]}" if address else ""
        record = self.recorder.begin(listener, request.method, request.path, request.query_string, headers, peer)
        if self.on_request is not None:
            self.on_request(record)
        return record

    async def _honest(self, listener: Listener, handler: _Handler, request: Request, source: web.BaseRequest) -> Answer:
        if listener == "quay" and not self._admits(request, source):
            return nginx_page(429, "Too Many Requests")
        if self.latency:
            await self._couriers[listener].pause(self.latency)
        answer = await handler(request)
        return answer.with_body(b"", answer.length) if request.method == "HEAD" else answer

    def _admits(self, request: Request, source: web.BaseRequest) -> bool:
        if self._limiter is None:
            return True
        authorization = request.headers.get("Authorization", "")
        return self._limiter.admits(request.path, address=source.remote or "", authorization=authorization)

    def _dressed(self, answer: Answer) -> Answer:
        """Return the answer with the headers of every answer, dated by the registry's clock."""
        common = {"Server": "nginx", "Date": formatdate(self._site.now(), usegmt=True)}
        missing = {name: value for name, value in common.items() if name not in answer.headers}
        return answer.with_headers(missing)

    async def _answer_quay(self, request: Request) -> Answer:
        answer = await self._routed(request)
        closes = request.path.startswith(("/api/", "/v2/auth")) or "/blobs/" in request.path
        return answer.closing() if closes and self._close_connections else answer

    async def _routed(self, request: Request) -> Answer:
        if request.path.startswith("/api/"):
            return self._api.answer(request)
        if request.path == "/v2/auth":
            return self._tokens.answer(request)
        if self._upstream is not None and request.is_read:
            proxied = await self._proxied(self._upstream, request)
            if proxied is not None:
                return proxied
        if request.path == "/v2" or request.path.startswith("/v2/"):
            return self._distribution.answer(request)
        return not_found_page()

    async def _proxied(self, upstream: Upstream, request: Request) -> Answer | None:
        target = self._distribution.repository_of(request)
        if target is None:
            return None
        name, kind, reference = target
        refusal = self._distribution.refusal(request, name)
        if refusal is not None:
            return refusal
        if kind == "blobs" and request.method == "GET" and self._site.redirect_blobs:
            return await upstream.blob_link(request, name, reference)
        return await upstream.fetch(request.method, f"/v2/{name}/{kind}/{reference}", request)

    async def _answer_cdn(self, request: Request) -> Answer:
        repository, digest = request.query.get("repository"), digest_in(request.path)
        if self._upstream is None or repository is None or digest is None:
            return self._cdn.answer(request)
        refusal = self._cdn.refusal(request)
        return refusal or await self._upstream.fetch(request.method, f"/v2/{repository}/blobs/{digest}", request)
