"""A client of one origin: authorization, redirects, limits and the meaning of answers in one loop, and retries.

`fetch` retries; `send` sends a request once: it answers one challenge and follows redirects, and for each of these hops
it waits for the limiter of the host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import anyio

from ..errors import (
    AccessDenied,
    ConnectFailed,
    HostDown,
    HostUnusable,
    NameUnknown,
    NotFound,
    NotGranted,
    QuaymirrorError,
    RateLimited,
    ReadInterrupted,
    Scope,
    ServiceError,
    Side,
    TimedOut,
    Unavailable,
    UnsafeRedirect,
)
from ..events import Observer, ignore
from ..secret import Secret, decoded_basic
from ..values import dataclass
from .answers import (
    MAX_ERROR_BODY,
    REDIRECTS,
    SPEAKS_TLS,
    ErrorBody,
    described,
    distorted,
    is_proven,
    is_success,
    is_throttled,
    media_type,
    read_error,
    to_error,
)
from .authorizer import Authorizer, Fixed
from .exchange import Request, Response, Transport
from .limiter import HostLimiter, Slot
from .origin import Origin, follow
from .retry import Attempts, RetryPolicy, prepare
from .timeouts import Timeouts

T = TypeVar("T")

_MAX_REDIRECTS = 5
_ERROR_BODY_SECONDS = 10.0
_ABSENT = (404, 410)
_READING = ("GET", "HEAD")
# New links for one that is refused.
_MAX_LINKS = 2
# For 429 of a host that a server named: retries for about a minute; a longer pause once, if it is not too long.
_MAX_LIMITED = 6
_SHORT_SECONDS = 10.0
_LONG_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that was answered. Leaving it as a context closes the response and leaves the slot.

    `location` is where the request was redirected to, "" if it was not.
    """

    response: Response
    slot: Slot
    location: str = ""

    def __enter__(self) -> Response:
        return self.response

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(passed=kind is None)

    def close(self, *, passed: bool) -> None:
        """Close the response and leave the slot, recording whether the request `passed`."""
        self.response.close()
        self.slot.leave(passed=passed)


@dataclass(frozen=True, slots=True)
class _Hop:
    """One step of a request: to the client's own origin, with credentials, or to where a server led, without them."""

    transport: Transport
    origin: Origin
    url: str
    headers: dict[str, str]
    name: str
    is_own: bool = False
    authorization: Secret | None = None
    is_answer: bool = False
    """True if a challenge has been answered already."""
    redirects: int = 0
    method: str = ""
    """Used instead of the request's."""


class _Errors:
    """Adds `side` to the errors that pass."""

    __slots__ = ("_side",)

    def __init__(self, side: Side) -> None:
        self._side = side

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, QuaymirrorError) and error.side is not self._side:
            raise error.replace(side=self._side) from None


class Client:
    """A client of one origin. `direct` sends to it, `foreign` to where it redirects, without any credentials."""

    def __init__(
        self,
        origin: Origin,
        *,
        direct: Transport,
        foreign: Transport,
        limiters: Callable[[str, str], HostLimiter],
        retries: RetryPolicy,
        authorizer: Authorizer | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = ignore,
        side: Side = Side.SOURCE,
    ) -> None:
        self.origin = origin
        self._url = str(origin)
        self._errors = _Errors(side)
        self._direct = direct
        self._foreign = foreign
        self._limiters = limiters
        self._retries = retries
        self._authorizer = authorizer or Fixed()
        self._timeouts = timeouts or Timeouts()
        self._observer = observer
        self._sends_bodies = False
        self._operations = 0

    def attempts(self, what: str, *, brief: bool = False) -> Attempts:
        """Return the attempts of one operation, which events call `what`; if `brief`, at most two."""
        self._operations += 1
        if self._operations == 2:  # a night without changes may consist of one
            prepare()

        policy = replace(self._retries, retries=min(1, self._retries.retries)) if brief else self._retries
        return Attempts(policy, what, host=self.origin.netloc, timeouts=self._timeouts.repeats, observer=self._observer)

    async def fetch(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the response and its body of at most `limit` bytes, with retries.

        :raises QuaymirrorError: the last error of `send` or `parse`.
        """
        attempts = self.attempts(self._name(request))
        async for attempt in attempts:
            with attempt:
                asked = replace(request, fresh=True) if attempts.is_refetch else request
                return await self.fetch_once(asked, limit=limit, parse=parse)

        raise AssertionError("the last attempt succeeds or raises")

    async def fetch_once(self, request: Request, *, limit: int, parse: Callable[[Response, bytes], T]) -> T:
        """Return what `parse` makes of the response and its body, without retries.

        :raises QuaymirrorError: an error of `send` or `parse`.
        """
        exchange = await self.send(request)
        with self._errors, exchange as response:
            body = await self._read(response, limit)
            try:
                return parse(response, body)
            except QuaymirrorError as error:
                raise distorted(error, response) from None

    async def _read(self, response: Response, limit: int) -> bytes:
        if response.has_arrived:  # as most small answers: a timeout would cost more than the reading
            return await response.read(limit)

        with anyio.move_on_after(self._timeouts.total):
            return await response.read(limit)

        raise TimedOut(f"{response.name}: the answer takes more than {self._timeouts.total:g} s")

    async def send(self, request: Request) -> Exchange:
        """Send `request` once, and return the exchange with its answer, which is a success.

        It is a context that has to be left: until then its slot is held.

        :raises ServiceError: for any other answer, see `answers.to_error`; one challenge is answered before.
        :raises CredentialsRefused: if the credentials are wrong.
        :raises HostDown: if the host fails all requests; the limiter waits for it, and no attempt should count.
        :raises UnsafeRedirect: if the answer leads to an address that must not be requested.
        :raises TransportError: without an answer, or with a broken one.
        """
        with self._errors:
            hop = await self._first_hop(request)
            while True:
                limiter = self._limiters(hop.origin.netloc, request.kind)
                try:
                    with Slot(limiter) as slot:
                        if await limiter.admit(slot, patient=request.patient, waits=request.waits):
                            await self._probe(hop, limiter)

                        began = self._retries.clock()
                        response = await self._answer(request, hop)
                        limiter.record(response, self._retries.clock() - began)
                except HostUnusable as error:
                    raise _permanent(error, hop, limiter) from None

                exchange = Exchange(response, slot, "" if hop.is_own else hop.url)
                if is_success(response) and not hop.method:
                    if request.threaded_bytes:
                        self._sends_bodies = hop.is_own

                    return exchange

                hop = await self._next_hop(request, hop, exchange, limiter)

    def _answer(self, request: Request, hop: _Hop) -> Awaitable[Response]:
        # A registry that redirects sends small answers only.
        if request.threaded_bytes and (self._sends_bodies or not hop.is_own):
            return hop.transport.send_large(
                hop.url,
                hop.headers,
                size=request.threaded_bytes,
                to_file=request.to_file,
                name=hop.name,
                fresh=request.fresh,
            )

        method = hop.method or request.method
        return hop.transport.send(method, hop.url, hop.headers, request.body, name=hop.name, fresh=request.fresh)

    async def _first_hop(self, request: Request) -> _Hop:
        if request.location:
            return self._foreign_hop(request, request.location)

        return self._own_hop(request, await self._authorizer.header(request.scope))

    def _own_hop(self, request: Request, authorization: Secret | None, *, is_answer: bool = False) -> _Hop:
        headers = _headers(request, self.origin)
        if authorization is not None:
            headers["Authorization"] = authorization.header_value()

        url = f"{self._url}{request.path}"
        return _Hop(
            self._direct, self.origin, url, headers, self._name(request), True, authorization, is_answer=is_answer
        )

    def _foreign_hop(self, request: Request, url: str, redirects: int = 0) -> _Hop:
        # What a server names gets no credentials. Its path is not shown, as it may contain what the server was sent.
        there = Origin.of(url)
        name = f"{there.netloc} (for {self._name(request)})"
        return _Hop(self._foreign, there, url, _headers(request, there), name, redirects=redirects)

    async def _next_hop(self, request: Request, hop: _Hop, exchange: Exchange, limiter: HostLimiter) -> _Hop:
        """Return where to send `request` next, or raise the error that its answer means."""
        with exchange as response:
            if hop.method and response.status < 400:
                raise Unavailable(f"{response.name}: a HEAD request is answered with 404, and GET with the content")

            if response.status in REDIRECTS:
                return await self._redirected(request, hop, response, limiter)

            if _needs_proof(request, hop, response):
                # The answer to HEAD has no body that would show where it comes from.
                return replace(hop, method="GET")

            # A challenge of another host is not the registry's, and gets no answer (CVE-2020-15157).
            if response.status != 401 or not hop.is_own or hop.is_answer:
                raise await self._error(request, hop, response, limiter)

            content = await _drain(response)

        # The slot is free again here: the token service may be behind the same limiter.
        challenge = response.all_headers("WWW-Authenticate")
        if not await self._authorizer.challenged(challenge, request.scope, hop.authorization):
            raise self._refusal(request, hop, response, content)

        if request.body is not None and not isinstance(request.body, bytes):
            raise ReadInterrupted(f"{response.name}: the token expired during the upload")

        return self._own_hop(request, await self._authorizer.header(request.scope), is_answer=True)

    async def _redirected(self, request: Request, hop: _Hop, response: Response, limiter: HostLimiter) -> _Hop:
        if not request.may_redirect:
            if hop.is_own and not hop.origin.is_secure and response.headers.get("Location", "").startswith("https:"):
                raise UnsafeRedirect(
                    f"{hop.origin.netloc} redirects plain HTTP to HTTPS: write https:// instead of http://, "
                    "or leave out ?insecure=true",
                    scope=limiter.health.given_up,
                )

            place = _destination(response)
            raise UnsafeRedirect(f"{response.name}: redirects elsewhere{place}, which is not allowed for this request")

        if hop.redirects == _MAX_REDIRECTS:
            raise UnsafeRedirect(f"{self._name(request)}: more than {_MAX_REDIRECTS} redirects")

        await _drain(response)
        url = follow(response.url, response.headers.get("Location", ""))
        return self._foreign_hop(request, url, hop.redirects + 1)

    async def _error(self, request: Request, hop: _Hop, response: Response, limiter: HostLimiter) -> QuaymirrorError:
        """Return the error that an answer means which is not a success."""
        if response.status >= 500 and limiter.health.is_down and not is_throttled(response):
            return HostDown(f"{response.name}: {response.status}")

        content = await _drain(response)
        error = self._refusal(request, hop, response, content)
        if response.status == 400 and not hop.origin.is_secure and b"HTTPS" in content:
            # The words of nginx, Go and Apache for plain HTTP that is sent to a port for TLS.
            raise ConnectFailed(f"{hop.origin.netloc} {SPEAKS_TLS}", scope=limiter.health.given_up)

        if hop.is_own and isinstance(error, AccessDenied) and (denial := self._authorizer.denial(request.scope)):
            return NotGranted(denial, status=error.status, codes=error.codes)

        if isinstance(error, AccessDenied) and response.status == 401 and self._authorizer.allows(request.scope):
            return error.replace(scope=Scope.ATTEMPT)  # the token service and the registry contradict each other

        if isinstance(error, RateLimited):
            if limiter.health.is_named:
                return _of_named_host(error, limiter)

            if not request.patient and error.scope is Scope.ATTEMPT:
                return error.replace(scope=Scope.IMAGE)

        return error

    def _refusal(self, request: Request, hop: _Hop, response: Response, content: bytes) -> ServiceError:
        """Return the error that the status and the body of an answer mean."""
        body = read_error(content) if hop.is_own else replace(read_error(content), reason="")
        if request.kind == "token" or _reveals(body.reason, hop.authorization):
            body = replace(body, reason="")

        error = to_error(response, body, patience=self._retries.patience)
        if not hop.is_own and response.status in ((401, 403, *_ABSENT) if request.location else (401, 403)):
            # The next attempt gets a link with a new signature.
            message = f"{response.name}: {error.status}, the link has expired or is invalid"
            return Unavailable(message, status=error.status, codes=error.codes, retries=_MAX_LINKS)

        if hop.is_own and not self._is_proven(request, response, error, body):
            # A proxy whose backend is down: Quay's nginx answered like this until May 2026.
            message = f"{response.name}: {error.status} {described(response)}, which a proxy answered and no registry"
            return Unavailable(message, status=error.status)

        return error

    @staticmethod
    def _is_proven(request: Request, response: Response, error: QuaymirrorError, body: ErrorBody) -> bool:
        """Return True if an answer that says no is the server's own, or it makes no difference; see `is_proven`."""
        if request.kind == "token" or not isinstance(error, NotFound | AccessDenied):
            return True

        if isinstance(error, NotFound) and (request.accept_any_404 or request.method not in _READING):
            return media_type(response) != "text/html" or body.is_json

        if request.method == "HEAD" and isinstance(error, NotFound):
            return media_type(response) == "application/json" or bool(body.codes)

        return is_proven(response, error, body)

    async def _probe(self, hop: _Hop, limiter: HostLimiter) -> None:
        """Ask a host that was down for something that doesn't depend on an image: any answer proves that it is back."""
        path = "/v2/" if hop.origin == self.origin else "/"
        began = self._retries.clock()
        response = await hop.transport.send("GET", f"{hop.origin}{path}", {})
        response.close()
        limiter.record(response, self._retries.clock() - began)
        if limiter.health.is_down:
            raise HostDown(f"{hop.origin.netloc}: still answers {response.status}")

    def _name(self, request: Request) -> str:
        return request.name or f"{self.origin.netloc}{request.path.partition('?')[0]}"


def _needs_proof(request: Request, hop: _Hop, response: Response) -> bool:
    is_bare = request.method == "HEAD" and hop.is_own and not hop.method and response.status in _ABSENT
    return is_bare and not request.accept_any_404 and media_type(response) != "application/json"


def _permanent(error: HostUnusable, hop: _Hop, limiter: HostLimiter) -> QuaymirrorError:
    """Return the error of a host that can't be used: no other request to the client's own host can succeed."""
    if isinstance(error, NameUnknown) and limiter.health.has_answered:
        return error.replace(scope=Scope.ATTEMPT)  # name services fail, too

    return error.replace(scope=limiter.health.given_up) if hop.is_own else error


def _reveals(reason: str, authorization: Secret | None) -> bool:
    """Return True if a server has put our credentials into the `reason` of its refusal."""
    if authorization is None or not reason:
        return False

    scheme, _, value = authorization.reveal().partition(" ")
    return any(part and part in reason for part in (value, *decoded_basic(scheme, value)))


def _of_named_host(error: RateLimited, limiter: HostLimiter) -> RateLimited:
    """Return the error for a host that a server named, which may be closed as a whole or for this link only."""
    pause = error.retry_after or 0.0
    is_lost = pause > _LONG_SECONDS and limiter.host.pause_left < pause / 2  # no other request confirms it
    scope = Scope.IMAGE if is_lost or error.scope is Scope.RUN else error.scope
    return error.replace(scope=scope, retries=_MAX_LIMITED if pause <= _SHORT_SECONDS else 1)


def _headers(request: Request, origin: Origin) -> dict[str, str]:
    condition = request.if_range
    return {
        **request.headers,
        **({"If-Range": condition.etag} if condition and condition.host == origin.netloc else {}),
    }


def _destination(response: Response) -> str:
    """Return to which host a redirect leads, for a message; "" if it leads to no URL.

    The rest of the URL may repeat our token, which the server knows.
    """
    try:
        return f", to {Origin.of(follow(response.url, response.headers.get('Location', ''))).netloc}"
    except (UnsafeRedirect, ValueError):
        return ""


async def _drain(response: Response) -> bytes:
    """Return a small body, read to its end so that the connection can be reused; otherwise nothing."""
    try:
        with anyio.move_on_after(_ERROR_BODY_SECONDS):
            return await response.read(MAX_ERROR_BODY)
    except QuaymirrorError:
        pass

    return b""
