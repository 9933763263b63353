"""The limiter of one class of endpoints of a host: it composes the controllers and waits as they decide.

Each controller is a function of times and answers without I/O: how many requests may run at a time (`window`), how many
may start per second (`cubic`), whether a documented limit exists (`probe`), whether the host is up (`health`), and how
far away it is (`latency`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import anyio

from ..errors import HostDown, RateLimited, Scope, TimedOut, TransportError
from ..events import HostPaced, HostPaused, HostResumed, Observer, ignore
from ..values import dataclass
from .answers import is_throttled, retry_after
from .cubic import CubicRate
from .exchange import Response
from .health import Health
from .latency import Latency
from .probe import RateLimitProbe
from .rate import RateLimiter, Throttle
from .window import Window

# A limit that changes by less than this factor is not reported.
_NOTABLE = 1.25
# Without Retry-After: about what the server's leaky bucket needs to take a small burst again.
_PAUSE_SECONDS = 1.0
# A request that holds a slot for a blob waits no longer than a moment; it comes back after this time if another request
# is probing the host.
_MOMENT_SECONDS = 1.5
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Initial and maximum concurrency of an endpoint class, and the rate limit Quay documents for it.

    A `RateLimitProbe` finds out whether the host limits requests as Quay's own configuration does: to `rate` per second
    with a `burst` on top. If it does, that is the initial rate; otherwise the window grows faster.
    `far` is the window used once the host proves to be far away; near hosts never exceed `start`.
    """

    start: int
    most: int
    rate: float | None = None
    burst: float = 0.0
    far: int | None = None


# Quay's own nginx templates allow an HTTP/1.1 client 5 API calls a second (burst 25) and 50 manifests (burst 10).
KINDS = {
    "api": Limits(16, 16, rate=5.0, burst=24.0),
    "token": Limits(4, 8),
    "manifests": Limits(16, 64, rate=50.0, burst=9.0),
    "blobs": Limits(10, 1024, far=64),
    "uploads": Limits(32, 1024),
}


PauseSeen = Callable[[str, float, str], None]
"""Gets the pauses that hosts ask for: host, seconds, reason."""


def ignore_pause(_host: str, _seconds: float, _reason: str) -> None:
    """Ignore a pause."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The surroundings of limiters: the observer of their decisions, the clock, and a limit on all requests.

    `pause_seen` gets the pauses that hosts ask for, as opposed to those after failures, which may be local.
    """

    observer: Observer = ignore
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    total: Throttle | None = None
    pause_seen: PauseSeen = ignore_pause


class Signal:
    """Wakes all tasks that wait for a change."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def send(self) -> None:
        """Wake the tasks that wait now."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()

    async def wait_at_most(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Wait for the next change, or until `seconds` have passed."""
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await sleep(seconds)
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await self.wait()
            tasks.cancel_scope.cancel()


class Host:
    """One host, to which all requests of a run wait together while it is paused or down."""

    def __init__(self, health: Health, runtime: Runtime) -> None:
        self.health = health
        self._runtime = runtime
        self._changed = Signal()
        self._is_paused = False

    @property
    def pause_left(self) -> float:
        """Seconds until requests may be sent."""
        return self.health.pause_left(self._runtime.clock())

    async def wait_until_available(self, *, waits: bool = True) -> bool:
        """Wait until a request may be sent; return True if it has to find out whether the host is back.

        :raises RateLimited, Unavailable: as `Health.delay`.
        :raises HostDown: with the time to wait, unless the caller `waits` for more than a moment.
        """
        while (delay := self.health.delay(self._runtime.clock())) > 0:
            if not waits and delay > _MOMENT_SECONDS:
                seconds = _LOOK_SECONDS if delay == float("inf") else delay
                raise HostDown(f"{self.health.name} is not available", retry_after=seconds)

            if delay == float("inf"):
                await self._changed.wait()
            else:
                # Not all requests start at once afterwards.
                await self._runtime.sleep(delay + random.uniform(0, min(delay / 10, 1.0)))

        if self.health.admit():
            return True

        self._report_resumed()
        return False

    def probe_finished(self) -> None:
        """Record that the request that had to find out has ended."""
        self.health.probe_finished()
        self._changed.send()

    def pause(self, seconds: float, reason: str) -> None:
        """Send nothing for `seconds`, as the host has asked."""
        if self.health.pause(self._runtime.clock(), seconds, reason):
            self._report_paused(seconds, reason)
            self._runtime.pause_seen(self.health.name, seconds, reason)

    def record_success(self) -> None:
        """Record a proper answer."""
        if self.health.record_success(self._runtime.clock()):
            self._changed.send()
            self._report_resumed()

    def record_failure(self, reason: str, *, silent_since: float | None = None) -> None:
        """Record a request without a usable answer; see `Health.record_failure`."""
        if seconds := self.health.record_failure(self._runtime.clock(), reason, silent_since=silent_since):
            self._report_paused(seconds, reason)

    def _report_paused(self, seconds: float, reason: str) -> None:
        self._is_paused = True
        self._runtime.observer(HostPaused(self.health.name, seconds, reason))

    def _report_resumed(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._runtime.observer(HostResumed(self.health.name))


class Slot:
    """The share of one request in a limiter: a place in the window, and perhaps a trial of the limit or of the host.

    As a context it is left on an error only; otherwise it is held until `leave`.
    """

    __slots__ = ("_limiter", "is_counted", "is_probe", "is_trial", "since")

    def __init__(self, limiter: HostLimiter) -> None:
        self._limiter = limiter
        self.is_counted: bool = False
        self.is_probe: bool = False
        self.is_trial: bool = False
        self.since: float = 0.0

    def leave(self, *, passed: bool = True) -> None:
        """Record the end of the request, and whether it `passed`. A second call does nothing."""
        self._limiter.leave(self, passed=passed)

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Leave the slot after an error.

        :raises HostDown: instead of a TransportError, if the host is down.
        """
        if error is not None:
            try:
                # HostDown means that the answer to a probe has been recorded already.
                if isinstance(error, TransportError) and not isinstance(error, HostDown):
                    self._limiter.record_failure(error, since=self.since)
            finally:
                self.leave(passed=False)


class HostLimiter:
    """Limits the requests to one class of endpoints of one host, its `kind`."""

    def __init__(self, host: Host, limits: Limits, *, kind: str = "", runtime: Runtime | None = None) -> None:
        self.host = host
        self.health: Health = host.health
        self._kind = kind
        self._runtime = runtime or Runtime()
        self._reported: HostPaced | None = None
        self._throttled = 0
        self._window = Window(limits.start, limits.most, limits.far)
        self._slots = anyio.CapacityLimiter(limits.start)
        self._cubic = CubicRate(limits.rate)
        self._turns = RateLimiter(1.0)
        self._probe = None if limits.rate is None else RateLimitProbe(limits.rate, limits.burst)
        self._probed = Signal()
        self._latency = Latency()

    @property
    def window(self) -> int:
        """The number of requests that may run at a time."""
        return self._window.size

    @property
    def rate(self) -> float | None:
        """The number of requests that may start per second, None for no limit."""
        return self._cubic.rate(self._runtime.clock())

    async def admit(self, slot: Slot, *, patient: bool = True, waits: bool = True) -> bool:
        """Wait until the request of `slot` may start; return True if it has to find out whether the host is back.

        :raises HostDown: unless the request `waits` while the host is paused or down.
        :raises RateLimited: if the host limits requests per second, unless the request is `patient`.
        :raises QuaymirrorError: if the host has been unavailable for too long; see `Health.delay`.
        """
        while True:
            slot.is_probe = await self.host.wait_until_available(waits=waits)
            try:
                await self._take_turn(slot, patient=patient)
            except BaseException:
                slot.leave(passed=False)
                raise

            # If a pause began in the meantime, other requests may need the slot.
            if self.host.pause_left == 0:
                slot.since = self._runtime.clock()
                return slot.is_probe

            slot.leave()

    async def _take_turn(self, slot: Slot, *, patient: bool) -> None:
        try:
            self._slots.acquire_on_behalf_of_nowait(slot)
        except anyio.WouldBlock:
            await self._slots.acquire_on_behalf_of(slot)

        slot.is_counted = True
        await self._wait_for_probe(slot)
        if self._cubic.is_limited and not patient:
            raise RateLimited(f"{self.health.name} limits requests per second", scope=Scope.IMAGE)

        await self._pace(1)

    async def _pace(self, requests: int) -> None:
        if (rate := self.rate) is not None:
            self._turns.rate = rate
            if (delay := self._turns.reserve(self._runtime.clock(), requests)) > 0:
                await self._runtime.sleep(delay)

        if self._runtime.total is not None:
            await self._runtime.total.take(requests)

    async def grant(self, requests: int) -> None:
        """Wait until another process may send `requests`. They take no place in the window, which is its own.

        :raises QuaymirrorError: if the host has been unavailable for too long; see `Health.delay`.
        """
        while True:
            if await self.host.wait_until_available():
                self.host.probe_finished()  # whether the host is back is for this process' own requests to find out

            await self._pace(requests)
            if self.host.pause_left == 0:
                return

    def charge(self, requests: float) -> None:
        """Count `requests` that another process has sent without a grant: later ones wait for them."""
        if self._runtime.total is not None and requests > 0:
            self._runtime.total.spend(requests)

    async def _wait_for_probe(self, slot: Slot) -> None:
        while self._probe is not None:
            delay, slot.is_trial = self._probe.admit(self._runtime.clock())
            if delay == 0:
                return

            await self._probed.wait_at_most(delay, self._runtime.sleep)

    def leave(self, slot: Slot, *, passed: bool) -> None:
        """Take back the share of `slot`; see `Slot.leave`."""
        if slot.is_trial and self._probe is not None:
            slot.is_trial = False
            self._probe.finish(passed=passed)
            self._probed.send()

        if slot.is_counted:
            slot.is_counted = False
            self._slots.release_on_behalf_of(slot)

        if slot.is_probe:
            slot.is_probe = False
            self.host.probe_finished()

    def record(self, response: Response, latency: float) -> None:
        """Record an answer that began after `latency` seconds."""
        reason = f"answered {response.status}"
        if is_throttled(response):
            pause = retry_after(response)
            self.record_complaint(_PAUSE_SECONDS if pause is None else pause, reason)
        elif response.status >= 500:
            self.host.record_failure(reason)
        else:
            self.record_success(latency)

    def record_success(self, latency: float = 0.0) -> None:
        """Record an answer that was not a complaint."""
        self.record_answered()
        if self._latency.record(latency):
            self._window.shrink()
        else:
            is_fast = not self._cubic.is_limited and self._probe is not None and self._probe.is_over
            self._window.grow(is_far=self._latency.is_far, is_fast=is_fast)

        self._report()

    def record_answered(self) -> None:
        """Record an answer that was not a complaint, to this process or another, whose latency says nothing here."""
        self.host.record_success()
        self._cubic.record_answer(self._runtime.clock())

    def record_complaint(self, pause: float, reason: str) -> None:
        """Record that the host asked for fewer requests: none for `pause` seconds, and then fewer of this kind."""
        self._throttled += 1
        self.host.pause(pause, reason)
        if self._cubic.record_complaint(self._runtime.clock(), self.host.pause_left):
            self._window.shrink()
            if self._probe is not None:
                self._probe.end()
                self._probed.send()

            self._report()

    def record_failure(self, error: TransportError, *, since: float = 0.0) -> None:
        """Record a request without an answer, which began at `since`.

        :raises HostDown: instead of `error`, if the host is down.
        """
        self.host.record_failure(error.message, silent_since=since if isinstance(error, TimedOut) else None)
        if self.health.is_down and error.scope is Scope.ATTEMPT:
            raise HostDown(error.message) from None

    def _report(self) -> None:
        """Apply the window, and report the limits if they have changed notably."""
        self._slots.total_tokens = self.window
        known = self._reported
        now = HostPaced(self.health.name, self._kind, self.window, self.rate, self._throttled)
        if (
            known is None
            or now.throttled != known.throttled
            or _differ(now.window, known.window)
            or _differ(now.rate, known.rate)
        ):
            self._reported = now
            self._runtime.observer(now)


def _differ(now: float | None, known: float | None) -> bool:
    """Return True if two limits, None for none, differ notably."""
    if now is None or known is None:
        return now is not known

    return not known / _NOTABLE < now < known * _NOTABLE


class HostLimiters:
    """The limiter of each host and class of endpoints, created on first use.

    `patience` is for how many seconds a host is waited for, `given_up` the scope of the error afterwards. With `own`,
    other hosts were named by servers, and fail images only.
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        patience: float = 900.0,
        given_up: Scope = Scope.RUN,
        own: set[str] | None = None,
    ) -> None:
        self._runtime = runtime or Runtime()
        self._patience = patience
        self._given_up = given_up
        self._own = own
        self._limiters: dict[tuple[str, str], HostLimiter] = {}
        self._hosts: dict[str, Host] = {}

    def isolated(self) -> HostLimiters:
        """Return limiters for untrusted hosts, under the same total: their failures neither end nor pause others.

        This includes hosts that are known here, since an image decides how often they are requested.
        """
        return HostLimiters(self._runtime, patience=self._patience, own=set())

    @property
    def requests(self) -> float:
        """The requests so far, counted if their total per second is limited."""
        return 0.0 if self._runtime.total is None else self._runtime.total.spent

    def trust(self, host: str) -> None:
        """Add a host that the user named, before the first request to it."""
        if self._own is not None:
            self._own.add(host)

    def __call__(self, host: str, kind: str) -> HostLimiter:
        """Return the limiter for `kind` of endpoints at `host`, `host[:port]`."""
        key = (host, kind)
        if key not in self._limiters:
            if host not in self._hosts:
                is_named = self._own is not None and host not in self._own
                given_up = Scope.IMAGE if is_named else self._given_up
                health = Health(host, patience=self._patience, given_up=given_up, is_named=is_named)
                self._hosts[host] = Host(health, self._runtime)

            self._limiters[key] = HostLimiter(self._hosts[host], KINDS[kind], kind=kind, runtime=self._runtime)

        return self._limiters[key]
