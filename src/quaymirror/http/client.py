"""One server, spoken to: gate, authorization, redirects, the meaning of the answer, retries. The order is written here.

fetch    the whole operation again while that can help        (retry)
  send   credentials, one answer to a 401                     (auth)
    _exchange   the request, and where it is redirected to    (guard)
      _send     a slot, and one answer                        (gate, transport)
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

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
from ..secret import Secret
from .authorizer import Authorizer, Fixed
from .limiter import HostLimiter, Slot
from .origin import Origin, follow
from .retry import Attempts, RetryPolicy, parse_retry_after
from .timeouts import Timeouts
from .transport import PROXY_REFUSES, Response, Transport

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


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that was answered. As a context, it hands out the answer, and gives back what it takes in the end."""

    response: Response
    slot: Slot

    def __enter__(self) -> Response:
        return self.response

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(passed=kind is None)

    def close(self, *, passed: bool) -> None:
        """Give back what it takes, saying whether the request `passed`: what leaving the context does."""
        self.response.close()
        self.slot.leave(passed=passed)


class Client:
    """A client of one origin. `direct` talks to it, `foreign` to where it redirects, without any credentials."""

    def __init__(
        self,
        origin: Origin,
        *,
        direct: Transport,
        foreign: Transport,
        gates: Callable[[str, str], HostLimiter],
        retries: RetryPolicy,
        authorizer: Authorizer | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = ignore,
        side: Side = Side.SOURCE,
    ) -> None:
        self.origin = origin
        self._url = str(origin)
        self._host = origin.netloc
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
        return Attempts(self._retries, what, host=self._host, observer=self._observer)

    async def fetch(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the answer and its body of at most `limit` bytes, trying again where it helps.

        :raises QuaymirrorError: what `send` or `parse` raised last.
        """

        attempts = self.attempts(self._name(request))

        async def once() -> T:
            asked = replace(request, fresh=True) if attempts.is_refetch else request
            return await self.fetch_once(asked, limit=limit, parse=parse)

        return await attempts.run(once)

    async def fetch_once(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the answer and its body, without trying again: for a step of something larger.

        :raises QuaymirrorError: what `send` or `parse` raised.
        """
        with await self.send(request) as response:
            try:
                return parse(response, await self._read(response, limit))
            except QuaymirrorError as error:
                raise error.replace(side=self._side) from None

    async def _read(self, response: Response, limit: int) -> bytes:
        with anyio.move_on_after(self._timeouts.total):
            return await response.read(limit)

        raise TimedOut(f"{response.name}: the answer takes more than {self._timeouts.total:g} s")

    async def send(self, request: Request) -> Exchange:
        """Send `request` once, and return the exchange with its answer, which is a success.

        It is a context that has to be left: until then its slot is held.

        :raises NotFound: 404 or 410.
        :raises AccessDenied: 401 (after one answer to its challenge) or 403.
        :raises CredentialsRefused: the credentials we have are wrong.
        :raises RateLimited: 429, or 503 with Retry-After; the gate has been told. It ends the run if the server asks
            for more patience than there is.
        :raises HostDown: when the host fails whoever asks; the gate waits for it, and nobody's tries should count.
        :raises Unavailable: 5xx and their like.
        :raises ServiceError: any other status that is no success.
        :raises UnsafeRedirect: the answer leads where we don't go.
        :raises TransportError: no answer, or a broken one.
        """
        try:
            exchange = await self._authorized(request)
            return exchange if _is_success(exchange) else await self._refused(request, exchange)
        except QuaymirrorError as error:
            raise error.replace(side=self._side) from None

    async def _authorized(self, request: Request) -> Exchange:
        header = await self._authorizer.header(request.scope)
        exchange = await self._exchange(request, header)
        # A challenge of where we were redirected to is not the registry's, and gets no answer (CVE-2020-15157).
        if exchange.response.status != 401 or self._is_elsewhere(request, exchange.response):
            return exchange

        with exchange as response:
            await _drain(response)
            fields = response.all_headers("WWW-Authenticate")

        # The slot is free again here: the token service may be behind the same gate.
        if not await self._authorizer.challenged(fields, request.scope, header):
            raise AccessDenied(f"{response.name}: not there, or not for us", status=401)

        if request.body is not None and not isinstance(request.body, bytes):
            raise ReadInterrupted(f"{response.name}: credentials had to be renewed while sending")

        return await self._exchange(request, await self._authorizer.header(request.scope))

    async def _exchange(self, request: Request, authorization: Secret | None) -> Exchange:
        name = self._name(request)
        exchange = await self._first(request, authorization, name)
        for _ in range(_MAX_REDIRECTS):
            if exchange.response.status not in _REDIRECTS:
                return exchange

            # A redirect's own slot is given back at once: only the last hop has a body.
            with exchange as response:
                if not request.may_redirect:
                    raise UnsafeRedirect(f"{response.name}: redirects elsewhere, which no such answer may")

                await _drain(response)
                url = follow(response.url, response.headers.get("Location", ""))

            exchange = await self._send_on(request, url, name)

        with exchange:
            raise UnsafeRedirect(f"{name}: more than {_MAX_REDIRECTS} redirects")

    async def _first(self, request: Request, authorization: Secret | None, name: str) -> Exchange:
        if request.location:
            return await self._send_on(request, request.location, name)

        headers = dict(request.headers)
        if authorization is not None:
            headers["Authorization"] = authorization.header_value()

        try:
            return await self._send(self._direct, request, self.origin, f"{self._url}{request.path}", headers, name)
        except CertificateRefused as error:
            # No other request to this host can succeed.
            raise error.replace(scope=self._gates(self._host, request.kind).health.given_up) from None

    async def _send_on(self, request: Request, url: str, name: str) -> Exchange:
        # Never the Authorization header, on whatever host: what a server names gets no credentials. Nor is its path
        # shown: it is the server's choice, and may be what the server was sent.
        there = Origin.of(url)
        hop = f"{there.netloc} (for {name})"
        return await self._send(self._foreign, request, there, url, dict(request.headers), hop)

    def location(self, request: Request, response: Response) -> str:
        """Return where `request` was redirected to, "" where its `response` came without that."""
        return response.url if self._is_elsewhere(request, response) else ""

    def _name(self, request: Request) -> str:
        # As `shown`, of a URL that we made.
        return request.name or f"{self._host}{request.path.partition('?')[0]}"

    async def _send(
        self, transport: Transport, request: Request, there: Origin, url: str, headers: dict[str, str], name: str
    ) -> Exchange:
        host = there.netloc
        gate = self._gates(host, request.kind)
        if request.if_range is not None and request.if_range.host == host:
            headers["If-Range"] = request.if_range.etag

        slot = gate.slot(patient=request.patient)
        is_probe = await slot.enter()
        try:
            if is_probe:
                await self._find_out(gate, transport, there)

            sending = transport.send(request.method, url, headers, request.body, name=name, fresh=request.fresh)
            return Exchange(await self._answer(gate, sending), slot)
        except BaseException:
            slot.leave(passed=False)
            raise

    async def _find_out(self, gate: HostLimiter, transport: Transport, there: Origin) -> None:
        """Ask a host that was down what it can't refuse for the sake of one image: any answer says that it is back."""
        path = "/v2/" if there == self.origin else "/"
        response = await self._answer(gate, transport.send("GET", f"{there}{path}", {}))
        response.close()
        if gate.health.is_down:
            raise HostDown(f"{gate.health.name}: still answers {response.status}")

    async def _answer(self, gate: HostLimiter, sending: Coroutine[Any, Any, Response]) -> Response:
        """Wait for an answer, and tell the gate how that went."""
        began = self._retries.clock()
        try:
            response = await sending
        except TransportError as error:
            gate.failed(error.message)
            raise _fault(gate, error) from None

        try:
            self._tell(gate, response, self._retries.clock() - began)
        except BaseException:
            response.close()
            raise

        return response

    def _tell(self, gate: HostLimiter, response: Response, latency: float) -> None:
        if _is_throttled(response):
            wait = _retry_after(response)
            gate.overloaded(pause=_PAUSE_SECONDS if wait is None else wait, reason=f"answered {response.status}")
        elif response.status >= 500:
            gate.failed(f"answered {response.status}")
            if gate.health.is_down:
                raise HostDown(f"{response.name}: {response.status}")
        else:
            gate.answered(latency)

    async def _refused(self, request: Request, exchange: Exchange) -> NoReturn:
        with exchange as response:
            raise await self._error(request, response)

    async def _error(self, request: Request, response: Response) -> QuaymirrorError:
        """Return what an answer that is no success means."""
        codes = await _error_codes(response)
        text = ", ".join(sorted(codes)[:3])
        refusals = (401, 403, 404, 410) if request.location else (401, 403)
        if response.status in refusals and self._is_elsewhere(request, response):
            # The signature of the URL we were sent to has expired or was never right: the next try gets a new one.
            return Unavailable(f"{response.name}: {response.status} {text}".rstrip(), status=response.status)

        error = _error(response, text, self._retries.patience)
        scope = error.scope
        if isinstance(error, AccessDenied) and response.status == 401 and self._authorizer.allows(request.scope):
            scope = Scope.ATTEMPT  # the token service and the registry contradict each other

        if isinstance(error, RateLimited) and not request.patient and error.scope is Scope.ATTEMPT:
            scope = Scope.IMAGE

        return error.replace(scope=scope, codes=codes)

    def _is_elsewhere(self, request: Request, response: Response) -> bool:
        return response.url != f"{self._url}{request.path}"


def _is_success(exchange: Exchange) -> bool:
    return 200 <= exchange.response.status < 300


def _fault(gate: HostLimiter, error: TransportError) -> TransportError:
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
    body = await _drain(response)
    codes = re.findall(rb'"(?:code|error_type)"\s*:\s*"([A-Za-z_]{1,40})"', body)
    return frozenset(code.decode() for code in codes)


async def _drain(response: Response) -> bytes:
    """Return a small body, read to its end so that the connection can be used again; nothing where there is no such."""
    try:
        with anyio.move_on_after(_ERROR_BODY_SECONDS):
            return await response.read(_MAX_ERROR_BODY)
    except QuaymirrorError:
        pass

    return b""
