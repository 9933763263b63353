"""How much goes to one class of endpoints of a host: requests at a time, and requests a second.

Both grow while all goes well, and shrink when the host says "too much". The window is AIMD as in TCP (RFC 5681): one
more for each window of good answers, half on a complaint or when answers get slow. The pace follows CUBIC (RFC 9438):
after a complaint it comes back quickly to what was possible before, stays there for a while, and only then tries more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from ..events import Observer, ignore
from .health import Health
from .pace import Pace

# One signal of overload reaches us as many answers: those of one burst count once.
_SETTLE_SECONDS = 1.0
_OBSERVED_SECONDS = 2.0
_MIN_RATE = 0.5
# Beyond this it is no limit any more.
_MAX_RATE = 10_000.0
# CUBIC's beta, and the seconds until the pace is where it was: they fix its third constant.
_KEPT = 0.7
_RECOVERY_SECONDS = 8.0
_STEEPNESS = (1 - _KEPT) / _RECOVERY_SECONDS**3
# Answers that take that much longer than they could are a queue that we made. The second keeps noise out.
_SLOW_FACTOR, _SLOW_SECONDS = 4.0, 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What to expect of a class of endpoints: a window to `start` with, `most` it may become, and a known pace.

    `rate` (requests a second) and `burst` are where the pace starts; it doubles with every `doubling` good answers
    until the host complains, and then `rate` is what is believed. No `rate` is no pace before the first complaint.
    """

    start: int
    most: int
    rate: float | None = None
    burst: float = 0.0
    doubling: float = 16.0


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """A look at one gate: requests in flight, how many may be, requests a second (None: no limit), pause left in s."""

    active: int
    window: int
    rate: float | None
    paused: float


class Gate:
    """The way to one class of endpoints of one host. `total` is a pace that all gates share."""

    def __init__(
        self,
        health: Health,
        limits: Limits,
        *,
        total: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.health = health
        self._limits = limits
        self._total = total
        self._clock = clock
        self._window = float(limits.start)
        self._limiter = anyio.CapacityLimiter(limits.start)
        self._pace = Pace(limits.rate or _MAX_RATE, burst=limits.burst, clock=clock, sleep=sleep)
        self._is_paced = limits.rate is not None
        self._ceiling: float | None = None
        self._recovering_since = 0.0
        self._last_complaint = float("-inf")
        self._answers: deque[float] = deque(maxlen=1024)
        self._latency: float | None = None
        self._best_latency = float("inf")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until a request may start, and count it as in flight while the context lasts.

        :raises QuaymirrorError: when the host has been out of reach for too long; see `Health.ready`.
        """
        holder = object()
        is_probe = await self._admit(holder)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(holder)
            if is_probe:
                self.health.probed()

    async def _admit(self, holder: object) -> bool:
        while True:
            is_probe = await self.health.ready()
            try:
                if await self._take_turn(holder):
                    return is_probe
            except BaseException:
                if is_probe:
                    self.health.probed()

                raise

            # The host closed while we waited for the slot: someone else may need it for what is running there.
            if is_probe:
                self.health.probed()

    async def _take_turn(self, holder: object) -> bool:
        await self._limiter.acquire_on_behalf_of(holder)
        try:
            if self._is_paced:
                self._pace.rate = self._rate()
                await self._pace.take()

            if self._total is not None:
                await self._total.take()

            if self.health.pause_left == 0:
                return True
        except BaseException:
            self._limiter.release_on_behalf_of(holder)
            raise

        self._limiter.release_on_behalf_of(holder)
        return False

    def answered(self, latency: float = 0.0) -> None:
        """Note an answer, after `latency` seconds, that was no complaint."""
        self.health.well()
        self._answers.append(self._clock())
        if self._is_paced and self._ceiling is None:
            self._pace.rate *= 2 ** (1 / self._limits.doubling)
            self._is_paced = self._pace.rate < _MAX_RATE

        if self._is_slow(latency):
            self._shrink()
        elif self._window < self._limits.most:
            self._window = min(self._limits.most, self._window + 1 / self._window)
            self._limiter.total_tokens = int(self._window)

    def overloaded(self, *, pause: float, reason: str) -> None:
        """Note that the host asked for patience: nobody asks it anything for `pause` seconds, and then less of this."""
        now = self._clock()
        self.health.pause(pause, reason)
        if now - self._last_complaint > _SETTLE_SECONDS:
            self._shrink()
            self._ceiling = self._possible_rate()
            self._is_paced = True
            self._pace.burst = 0.0  # the host's bucket is full: what a pause drains of it is its reserve, not ours

        self._last_complaint = now
        self._recovering_since = now + self.health.pause_left

    def failed(self, reason: str) -> None:
        """Note a request that came to nothing."""
        self.health.failing(reason)

    def _shrink(self) -> None:
        self._window = max(1.0, self._window / 2)
        self._limiter.total_tokens = int(self._window)

    def _rate(self) -> float:
        """Requests a second, now: what was possible, approached from below, held, and then exceeded."""
        if self._ceiling is None:
            return self._pace.rate

        elapsed = self._clock() - self._recovering_since - _RECOVERY_SECONDS
        rate = self._ceiling * max(_KEPT, 1 + _STEEPNESS * elapsed**3)
        self._is_paced = rate < _MAX_RATE
        return min(_MAX_RATE, max(_MIN_RATE, rate))

    def _possible_rate(self) -> float:
        """What the host takes: what it took just now, or what is known of its kind when it complains first."""
        now = self._clock()
        observed = sum(1 for answer in self._answers if now - answer <= _OBSERVED_SECONDS) / _OBSERVED_SECONDS
        if self._ceiling is None:
            return max(_MIN_RATE, self._limits.rate or observed)

        # Few answers may only mean that little was asked: never less than half of what it was.
        return max(_MIN_RATE, self._rate() / 2, min(observed, self._rate()))

    def _is_slow(self, latency: float) -> bool:
        """Tell, once in a while, whether answers take so much longer than they could that we must be the reason."""
        self._latency = latency if self._latency is None else self._latency + (latency - self._latency) / 8
        self._best_latency = min(self._best_latency, self._latency)
        if self._latency < max(_SLOW_SECONDS, _SLOW_FACTOR * self._best_latency):
            return False

        self._latency = None
        return True

    def statistics(self) -> GateStatistics:
        """Return how things stand at this gate."""
        rate = self._rate() if self._is_paced else None
        return GateStatistics(self._limiter.borrowed_tokens, int(self._window), rate, self.health.pause_left)


# Where each class starts. Quay's own nginx templates allow an HTTP/1.1 client 5 API calls a second (burst 25) and 50
# manifests (burst 10); a Quay without them is found out within seconds, as the pace doubles.
KINDS = {
    "api": Limits(8, 16, rate=5.0, burst=22.0, doubling=2.0),
    "token": Limits(4, 8),
    "manifests": Limits(16, 64, rate=50.0, burst=8.0, doubling=32.0),
    "blobs": Limits(32, 1024),
}


class Gates:
    """The gate of each host and class of endpoints, made when it is first asked for.

    `total` is a pace for all requests together; `patience` for how many seconds a host is waited for.
    """

    def __init__(
        self,
        observer: Observer = ignore,
        *,
        total: Pace | None = None,
        patience: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._observer = observer
        self._total = total
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._gates: dict[tuple[str, str], Gate] = {}
        self._hosts: dict[str, Health] = {}

    def __call__(self, host: str, kind: str) -> Gate:
        """Return the gate for `kind` of endpoints at `host`, `host[:port]`."""
        key = (host, kind)
        if key not in self._gates:
            self._gates[key] = Gate(
                self._health(host), KINDS[kind], total=self._total, clock=self._clock, sleep=self._sleep
            )

        return self._gates[key]

    def _health(self, host: str) -> Health:
        if host not in self._hosts:
            self._hosts[host] = Health(
                host, patience=self._patience, observer=self._observer, clock=self._clock, sleep=self._sleep
            )

        return self._hosts[host]
