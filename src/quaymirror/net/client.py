"""One server, spoken to: gate, authorization, redirects, the meaning of the answer, retries. The order is written here.

fetch    the whole operation again while that can help        (retry)
  open   a slot, credentials, one answer to a 401             (gate, auth)
    _exchange   the request, and where it is redirected to    (transport, guard)
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio

from ..errors import (
    AccessDenied,
    CertificateRefused,
    HostDown,
    NotFound,
    QuaymirrorError,
    RateLimited,
    ReadInterrupted,
    Scope,
    ServiceError,
    Side,
    TimedOut,
    TransportError,
    Unavailable,
    UnsafeRedirect,
)
from ..events import Observer, ignore
from .auth import Authorizer, Fixed
from .gate import Gate
from .origin import Origin, follow, shown
from .retry import Attempts, RetryPolicy, parse_retry_after
from .secret import Secret
from .transport import PROXY_REFUSES, Response, Timeouts, Transport

T = TypeVar("T")

_MAX_REDIRECTS = 5
_ERROR_BODY_SECONDS = 10.0
_MAX_ERROR_BODY = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({408, 425, 500, 502, 503, 504, *range(520, 525)})
# Without a word from the server: about what its leaky bucket needs to take a small burst again.
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Validator:
    """What `host` calls the content it sent: a strong entity tag (RFC 9110, 8.8.3)."""

    host: str
    etag: str


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of a server. `path` starts with a slash; `scope` is what a token must allow.

    `kind` says which gate it passes; `may_redirect` whether another host may answer (blobs), without credentials.
    Unless `patient`, it fails rather than wait for a host that answers only so many a second.
    Where a server chose the path, which may then be anything it was sent, `name` is what messages call it instead.
    A `fresh` one gets a connection of its own: behind one address there may be several servers, one of them broken.
    Several scopes are separated by spaces, what the request is mainly about first. A `body` that is no `bytes` can be
    sent once only, and needs its `Content-Length` in `headers`.
    A range is wanted only of the content that `if_range` means; the host that gave it is told so, and no other.
    `location` is where an earlier one like it was redirected to: that is asked at once, as it would be then.
    """

    path: str
    kind: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    scope: str | None = None
    may_redirect: bool = False
    body: bytes | AsyncIterable[bytes] | None = None
    patient: bool = True
    fresh: bool = False
    name: str = ""
    if_range: Validator | None = None
    location: str = ""


class Client:
    """A client of one origin. `direct` talks to it, `foreign` to where it redirects, without any credentials."""

    def __init__(
        self,
        origin: Origin,
        *,
        direct: Transport,
        foreign: Transport,
        gates: Callable[[str, str], Gate],
        retries: RetryPolicy,
        authorizer: Authorizer | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = ignore,
        side: Side = Side.SOURCE,
    ) -> None:
        self.origin = origin
        self._side = side
        self._direct = direct
        self._foreign = foreign
        self._gates = gates
        self._retries = retries
        self._authorizer = authorizer or Fixed()
        self._timeouts = timeouts or Timeouts()
        self._observer = observer

    def attempts(self, what: str) -> Attempts:
        """Return the budget of tries for one operation, `what` naming it in events."""
        return Attempts(self._retries, what, host=self.origin.netloc, observer=self._observer)

    async def fetch(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the answer and its body of at most `limit` bytes, trying again where it helps.

        :raises QuaymirrorError: what `open` or `parse` raised last.
        """

        attempts = self.attempts(self._name(request))

        async def once() -> T:
            return await self.fetch_once(replace(request, fresh=attempts.is_refetch), limit=limit, parse=parse)

        return await attempts.run(once)

    async def fetch_once(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the answer and its body, without trying again: for a step of something larger.

        :raises QuaymirrorError: what `open` or `parse` raised.
        """
        async with self.open(request) as response:
            with self._our_side():
                return parse(response, await self._read(response, limit))

    async def _read(self, response: Response, limit: int) -> bytes:
        with anyio.move_on_after(self._timeouts.total):
            return await response.read(limit)

        raise TimedOut(f"{response.name}: the answer takes more than {self._timeouts.total:g} s")

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Response]:
        """Send `request` once and hand out its answer, which is a success; the slot is held while the context lasts.

        :raises NotFound: 404 or 410.
        :raises AccessDenied: 401 (after one answer to its challenge) or 403.
        :raises CredentialsRefused: the credentials we have are wrong.
        :raises RateLimited: 429, or 503 with Retry-After; the gate has been told. It ends the run if the server asks
            for more patience than there is.
        :raises RateLimited: 429, or 503 with Retry-After; the gate has been told.
        :raises HostDown: when the host fails whoever asks; the gate waits for it, and nobody's tries should count.
        :raises Unavailable: 5xx and their like.
        :raises ServiceError: any other status that is no success.
        :raises UnsafeRedirect: the answer leads where we don't go.
        :raises TransportError: no answer, or a broken one.
        """
        async with AsyncExitStack() as stack:
            with self._our_side():
                response = await self._authorized(request, stack)

            # What is raised from here on may be about the other side: where the body goes to.
            yield response

    @contextmanager
    def _our_side(self) -> Iterator[None]:
        """Say of an error that passes which side it was."""
        try:
            yield
        except QuaymirrorError as error:
            error.side = self._side
            raise

    async def _authorized(self, request: Request, stack: AsyncExitStack) -> Response:
        header = await self._authorizer.header(request.scope)
        async with AsyncExitStack() as first:
            response = await self._exchange(request, header, first)
            # A challenge of where we were redirected to is not the registry's, and gets no answer (CVE-2020-15157).
            if response.status != 401 or self._is_elsewhere(request, response):
                await self._check(request, response)
                stack.push_async_exit(first.pop_all())
                return response

            await _drain(response)
            fields = response.all_headers("WWW-Authenticate")

        # The slot is free again here: the token service may be behind the same gate.
        if not await self._authorizer.challenged(fields, request.scope, header):
            raise AccessDenied(f"{response.name}: not there, or not for us", status=401)

        if request.body is not None and not isinstance(request.body, bytes):
            raise ReadInterrupted(f"{response.name}: credentials had to be renewed while sending")

        response = await self._exchange(request, await self._authorizer.header(request.scope), stack)
        await self._check(request, response)
        return response

    async def _exchange(self, request: Request, authorization: Secret | None, stack: AsyncExitStack) -> Response:
        name = self._name(request)
        response = await self._first(request, authorization, stack, name)
        for _ in range(_MAX_REDIRECTS):
            if response.status not in _REDIRECTS:
                return response

            if not request.may_redirect:
                raise UnsafeRedirect(f"{response.name}: redirects elsewhere, which no such answer may")

            await _drain(response)
            url = follow(response.url, response.headers.get("Location", ""))
            response = await self._send_on(request, url, stack, name)

        raise UnsafeRedirect(f"{name}: more than {_MAX_REDIRECTS} redirects")

    async def _first(
        self, request: Request, authorization: Secret | None, stack: AsyncExitStack, name: str
    ) -> Response:
        if request.location:
            return await self._send_on(request, request.location, stack, name)

        headers = dict(request.headers)
        if authorization is not None:
            headers["Authorization"] = authorization.header_value()

        try:
            return await self._send(self._direct, request, f"{self.origin}{request.path}", headers, stack, name=name)
        except CertificateRefused as error:
            # Nothing else that is asked there can go better.
            error.scope = self._gates(self.origin.netloc, request.kind).health.given_up
            raise

    async def _send_on(self, request: Request, url: str, stack: AsyncExitStack, name: str) -> Response:
        # Never the Authorization header, on whatever host: what a server names gets no credentials. Nor is its path
        # shown: it is the server's choice, and may be what the server was sent.
        hop = f"{Origin.of(url).netloc} (for {name})"
        return await self._send(self._foreign, request, url, dict(request.headers), stack, name=hop)

    def location(self, request: Request, response: Response) -> str:
        """Return where `request` was redirected to, "" where its `response` came without that."""
        return response.url if self._is_elsewhere(request, response) else ""

    def _name(self, request: Request) -> str:
        return request.name or shown(f"{self.origin}{request.path}")

    async def _send(
        self,
        transport: Transport,
        request: Request,
        url: str,
        headers: Mapping[str, str],
        stack: AsyncExitStack,
        *,
        name: str,
    ) -> Response:
        host = Origin.of(url).netloc
        gate = self._gates(host, request.kind)
        if request.if_range is not None and request.if_range.host == host:
            headers = {**headers, "If-Range": request.if_range.etag}

        # A redirect's own slot is given back at once: only the last hop has a body.
        await stack.aclose()
        if await stack.enter_async_context(gate.slot(patient=request.patient)):
            await self._find_out(gate, transport, url)

        exchange = transport.request(request.method, url, headers, request.body, name=name, fresh=request.fresh)
        return await self._answer(gate, exchange, stack)

    async def _find_out(self, gate: Gate, transport: Transport, url: str) -> None:
        """Ask a host that was down what it can't refuse for the sake of one image: any answer says that it is back."""
        async with AsyncExitStack() as stack:
            path = "/v2/" if Origin.of(url) == self.origin else "/"
            response = await self._answer(gate, transport.request("GET", f"{Origin.of(url)}{path}", {}), stack)
            if gate.health.is_down:
                raise HostDown(f"{gate.health.name}: still answers {response.status}")

    async def _answer(
        self, gate: Gate, request: AbstractAsyncContextManager[Response], stack: AsyncExitStack
    ) -> Response:
        """Wait for an answer, and tell the gate how that went."""
        began = self._retries.clock()
        try:
            response = await stack.enter_async_context(request)
        except TransportError as error:
            gate.failed(error.message)
            raise _fault(gate, error) from None

        if _is_throttled(response):
            wait = _retry_after(response)
            gate.overloaded(pause=_PAUSE_SECONDS if wait is None else wait, reason=f"answered {response.status}")
        elif response.status >= 500:
            gate.failed(f"answered {response.status}")
            if gate.health.is_down:
                raise HostDown(f"{response.name}: {response.status}")
        else:
            gate.answered(self._retries.clock() - began)

        return response

    async def _check(self, request: Request, response: Response) -> None:
        if 200 <= response.status < 300:
            return

        codes = await _error_codes(response)
        text = ", ".join(sorted(codes)[:3])
        refusals = (401, 403, 404, 410) if request.location else (401, 403)
        if response.status in refusals and self._is_elsewhere(request, response):
            # The signature of the URL we were sent to has expired or was never right: the next try gets a new one.
            raise Unavailable(f"{response.name}: {response.status} {text}".rstrip(), status=response.status)

        error = _error(response, text, self._retries.patience)
        if isinstance(error, AccessDenied) and response.status == 401 and self._authorizer.allows(request.scope):
            error.scope = Scope.ATTEMPT  # the token service and the registry contradict each other

        if isinstance(error, RateLimited) and not request.patient and error.scope is Scope.ATTEMPT:
            error.scope = Scope.IMAGE

        error.codes = codes
        raise error

    def _is_elsewhere(self, request: Request, response: Response) -> bool:
        return response.url != f"{self.origin}{request.path}"


def _fault(gate: Gate, error: TransportError) -> TransportError:
    return HostDown(error.message) if gate.health.is_down and error.scope is Scope.ATTEMPT else error


def _retry_after(response: Response) -> float | None:
    return parse_retry_after(response.headers.get("Retry-After"), date=response.headers.get("Date"))


def _is_throttled(response: Response) -> bool:
    return response.status == 429 or (response.status == 503 and "Retry-After" in response.headers)


def _error(response: Response, text: str, patience: float) -> ServiceError:
    status = response.status
    message = f"{response.name}: {status} {text}".rstrip()
    if _is_throttled(response):
        wait = _retry_after(response)
        if wait is not None and wait > patience:
            message = f"{message}, come back in {wait:.0f} s"
            return RateLimited(message, status=status, retry_after=wait, scope=Scope.RUN)

        return RateLimited(message, status=status, retry_after=wait)

    if status == 407:
        return ServiceError(f"{response.name}: {PROXY_REFUSES}", status=status)

    if status in (404, 410):
        return NotFound(message, status=status)

    if status in (401, 403):
        return AccessDenied(message, status=status)

    return (Unavailable if status in _TEMPORARY else ServiceError)(message, status=status)


async def _error_codes(response: Response) -> frozenset[str]:
    """What the server says about it, in short: a registry's code, or nothing (HTML of proxies says less than 502)."""
    body = b""
    try:
        with anyio.move_on_after(_ERROR_BODY_SECONDS):
            body = await response.read(_MAX_ERROR_BODY)
    except QuaymirrorError:
        return frozenset()

    codes = re.findall(rb'"(?:code|error_type)"\s*:\s*"([A-Za-z_]{1,40})"', body)
    return frozenset(code.decode() for code in codes)


async def _drain(response: Response) -> None:
    """Read a small body to its end, so that the connection can be used again."""
    await _error_codes(response)
