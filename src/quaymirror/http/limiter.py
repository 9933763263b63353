"""How much goes to one class of endpoints of a host: requests at a time, and requests a second.

Both grow while all goes well, and shrink when the host says "too much". The window is AIMD as in TCP (RFC 5681): one
more for each window of good answers, half on a complaint or when answers get slow. The pace follows CUBIC (RFC 9438):
after a complaint it comes back quickly to what was possible before, stays there for a while, and only then tries more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from ..errors import RateLimited, Scope
from ..events import HostPaced, Observer, ignore
from .health import Health
from .latency import LatencyClass
from .probe import RateLimitProbe
from .rate import RateLimiter

# One signal of overload reaches us as many answers: those of one burst count once.
_SETTLE_SECONDS = 1.0
_OBSERVED_SECONDS = 2.0
_TELLING_ANSWERS = 40
_MIN_RATE = 0.5
# Beyond this it is no limit any more.
_MAX_RATE = 10_000.0
# CUBIC's beta, and the seconds until the pace is where it was: they fix its third constant.
_KEPT = 0.7
_RECOVERY_SECONDS = 16.0
_STEEPNESS = (1 - _KEPT) / _RECOVERY_SECONDS**3
# A limit that has changed by less than this factor is nothing to tell anybody.
_NOTABLE = 1.25
# Answers that take that much longer than they could are a queue that we made. The second keeps noise out.
_SLOW_FACTOR, _SLOW_SECONDS = 4.0, 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Initial and maximum concurrency of an endpoint class, and the rate limit Quay documents for it.

    A `RateLimitProbe` finds out whether the host limits requests as Quay's own configuration does: to `rate` per second
    with a `burst` on top. If it does, that is the initial pace; otherwise there is none, and the window grows faster.
    `far` is the window used once the host proves to be far away; near hosts never exceed `start`.
    """

    start: int
    most: int
    rate: float | None = None
    burst: float = 0.0
    far: int | None = None


@dataclass(frozen=True, slots=True)
class HostLimiterStatistics:
    """A look at one gate: requests in flight, how many may be, requests a second (None: no limit), pause left in s,
    and how many answers asked for less."""

    active: int
    window: int
    rate: float | None
    paused: float
    throttled: int


class Slot:
    """What one request holds at a gate: a place in the window, and maybe a try of the limit, or of the host."""

    __slots__ = ("_gate", "_patient", "is_counted", "is_probe", "is_trial")

    def __init__(self, gate: HostLimiter, *, patient: bool) -> None:
        self._gate = gate
        self._patient = patient
        self.is_counted = self.is_probe = self.is_trial = False

    async def enter(self) -> bool:
        """Wait until the request may start, and count it as in flight until the slot is left.

        True says that the host was down and this request has to find out whether it is back.

        :raises RateLimited: when the host has a limit here, unless the request is patient.
        :raises QuaymirrorError: when the host has been out of reach for too long; see `Health.ready`.
        """
        return await self._gate.admit(self, patient=self._patient)

    def leave(self, *, passed: bool = True) -> None:
        """Note that the request has ended, and whether it `passed`. Once more means nothing."""
        self._gate.leave(self, passed=passed)

    async def __aenter__(self) -> bool:
        return await self.enter()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.leave(passed=kind is None)


class HostLimiter:
    """The way to one class of endpoints of one host, its `kind`. `total` is a pace that all gates share."""

    def __init__(
        self,
        health: Health,
        limits: Limits,
        *,
        kind: str = "",
        observer: Observer = ignore,
        total: RateLimiter | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.health = health
        self._limits = limits
        self._kind = kind
        self._observer = observer
        self._told: HostPaced | None = None
        self._throttled = 0
        self._total = total
        self._clock = clock
        self._window = float(limits.start)
        self._limiter = anyio.CapacityLimiter(limits.start)
        self._pace = RateLimiter(_MAX_RATE, clock=clock, sleep=sleep)
        self._trial = (
            None if limits.rate is None else RateLimitProbe(limits.rate, limits.burst, clock=clock, sleep=sleep)
        )
        self._ceiling: float | None = None
        self._recovering_since = 0.0
        self._head_start = 0.0
        self._last_complaint = float("-inf")
        self._answers: deque[float] = deque(maxlen=1024)
        self._latency: float | None = None
        self._best_latency = float("inf")
        self._distance = None if limits.far is None else LatencyClass()

    def slot(self, *, patient: bool = True) -> Slot:
        """Return a place for one request; unless `patient`, there is none where the host has a limit."""
        return Slot(self, patient=patient)

    async def admit(self, slot: Slot, *, patient: bool) -> bool:
        """Wait until a request may start, and let `slot` be what it holds; see `Slot.enter`."""
        while True:
            slot.is_probe = await self.health.ready()
            try:
                await self._take_turn(slot, patient=patient)
            except BaseException:
                slot.leave(passed=False)
                raise

            # If it closed while we waited for the slot, someone else may need that for what is running there.
            if self.health.pause_left == 0:
                return slot.is_probe

            slot.leave()

    async def _take_turn(self, slot: Slot, *, patient: bool) -> None:
        await _acquire(self._limiter, slot)
        slot.is_counted = True
        if self._trial is not None and await self._trial.enter():
            slot.is_trial = True

        if self._ceiling is not None and not patient:
            raise RateLimited(f"{self.health.name} answers only so many requests a second", scope=Scope.IMAGE)

        if (rate := self._rate()) is not None:
            self._pace.rate = rate
            await self._pace.take()

        if self._total is not None:
            await self._total.take()

    def leave(self, slot: Slot, *, passed: bool) -> None:
        """Take back what `slot` holds; see `Slot.leave`."""
        if slot.is_trial and self._trial is not None:
            slot.is_trial = False
            self._trial.left(passed=passed)

        if slot.is_counted:
            slot.is_counted = False
            self._limiter.release_on_behalf_of(slot)

        if slot.is_probe:
            slot.is_probe = False
            self.health.probed()

    def answered(self, latency: float = 0.0) -> None:
        """Note an answer, after `latency` seconds, that was no complaint."""
        self.health.well()
        self._answers.append(self._clock())
        if self._is_slow(latency):
            self._shrink()
        elif self._window < (most := self._most(latency)):
            is_free = self._ceiling is None and self._trial is not None and self._trial.is_over
            self._window = min(most, self._window + (1.0 if is_free else 1 / self._window))
            self._limiter.total_tokens = int(self._window)

        self._tell()

    def _most(self, latency: float) -> int:
        """Return how many requests at a time are of use, after one more answer that came after `latency` seconds."""
        if self._distance is None or self._distance.is_far:
            return self._limits.most

        if not self._distance.answered(latency):
            return self._limits.start

        self._window = max(self._window, float(self._limits.far or 0))
        return self._limits.most

    def overloaded(self, *, pause: float, reason: str) -> None:
        """Note that the host asked for patience: nobody asks it anything for `pause` seconds, and then less of this."""
        now = self._clock()
        self._throttled += 1
        self.health.pause(pause, reason)
        is_news = now - self._last_complaint > _SETTLE_SECONDS
        if is_news:
            self._shrink()
            is_known = self._trial is not None and self._ceiling is None
            self._ceiling = self._possible_rate() if self._tells_a_rate() else None
            # Where the complaint only confirms what was known, there is less to be careful about.
            self._head_start = _RECOVERY_SECONDS / 2 if is_known else 0.0
            if self._trial is not None:
                self._trial.end()

        self._last_complaint = now
        self._recovering_since = now + self.health.pause_left - self._head_start
        if is_news:
            self._tell()

    def failed(self, reason: str) -> None:
        """Note a request that came to nothing."""
        self.health.failing(reason)

    def _shrink(self) -> None:
        self._window = max(1.0, self._window / 2)
        self._limiter.total_tokens = int(self._window)

    def _tell(self) -> None:
        """Tell how much may go through here, if that is news."""
        told = self._told
        now = HostPaced(self.health.name, self._kind, int(self._window), self._rate(), self._throttled)
        if (
            told is None
            or now.throttled != told.throttled
            or _differ(now.window, told.window)
            or _differ(now.rate, told.rate)
        ):
            self._told = now
            self._observer(now)

    def _rate(self) -> float | None:
        """Requests a second, now: what was possible, approached from below, held, and then exceeded; None: no limit."""
        if self._ceiling is None:
            return None

        elapsed = self._clock() - self._recovering_since - _RECOVERY_SECONDS
        rate = self._ceiling * max(_KEPT, 1 + _STEEPNESS * elapsed**3)
        return max(_MIN_RATE, rate) if rate < _MAX_RATE else None

    def _tells_a_rate(self) -> bool:
        """Tell whether a complaint is about requests a second: after few of them it is about something else."""
        if self._ceiling is not None or self._limits.rate is not None:
            return True

        since = self._clock() - _OBSERVED_SECONDS
        return sum(answer >= since for answer in self._answers) >= _TELLING_ANSWERS

    def _possible_rate(self) -> float:
        """What the host takes: what passed since it complained last, or what is known of its kind the first time."""
        if self._ceiling is None:
            return max(_MIN_RATE, self._limits.rate or self._observed_rate(self._clock() - _OBSERVED_SECONDS))

        # Its bucket was full then and is full now, so that what passed meanwhile is its limit; unless little was asked:
        # never less than half of what it was.
        rate = self._rate() or _MAX_RATE
        return max(_MIN_RATE, min(rate, max(rate / 2, self._observed_rate(self._last_complaint))))

    def _observed_rate(self, since: float) -> float:
        passed = [answer for answer in self._answers if answer >= since]
        if len(passed) == self._answers.maxlen:
            since = passed[0]

        return len(passed) / max(0.1, self._clock() - since)

    def _is_slow(self, latency: float) -> bool:
        """Tell, once in a while, whether answers take so much longer than they could that we must be the reason."""
        self._latency = latency if self._latency is None else self._latency + (latency - self._latency) / 8
        self._best_latency = min(self._best_latency, self._latency)
        if self._latency < max(_SLOW_SECONDS, _SLOW_FACTOR * self._best_latency):
            return False

        self._latency = None
        return True

    def statistics(self) -> HostLimiterStatistics:
        """Return how things stand at this gate."""
        borrowed = self._limiter.borrowed_tokens
        return HostLimiterStatistics(borrowed, int(self._window), self._rate(), self.health.pause_left, self._throttled)


async def _acquire(limiter: anyio.CapacityLimiter, borrower: object) -> None:
    """Take a token of `limiter`; where one is free, without going round the loop for it."""
    try:
        limiter.acquire_on_behalf_of_nowait(borrower)
    except anyio.WouldBlock:
        await limiter.acquire_on_behalf_of(borrower)


def _differ(now: float | None, told: float | None) -> bool:
    """Tell whether it is worth telling that a limit, None for none, is another one than was told."""
    if now is None or told is None:
        return now is not told

    return not told / _NOTABLE < now < told * _NOTABLE


# Quay's own nginx templates allow an HTTP/1.1 client 5 API calls a second (burst 25) and 50 manifests (burst 10).
KINDS = {
    "api": Limits(16, 16, rate=5.0, burst=24.0),
    "token": Limits(4, 8),
    "manifests": Limits(16, 64, rate=50.0, burst=9.0),
    "blobs": Limits(10, 1024, far=64),
    "uploads": Limits(32, 1024),
}


class HostLimiters:
    """The gate of each host and class of endpoints, made when it is first asked for.

    `total` is a pace for all requests together; `patience` for how many seconds a host is waited for, and `given_up`
    how far it reaches when that was in vain.
    """

    def __init__(
        self,
        observer: Observer = ignore,
        *,
        total: RateLimiter | None = None,
        patience: float = 900.0,
        given_up: Scope = Scope.RUN,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._observer = observer
        self._total = total
        self._patience = patience
        self._given_up = given_up
        self._clock = clock
        self._sleep = sleep
        self._gates: dict[tuple[str, str], HostLimiter] = {}
        self._hosts: dict[str, Health] = {}

    def apart(self) -> HostLimiters:
        """Return gates under the same total for hosts that nobody vouches for: their trouble ends and stops no other.

        Even where such a host is one that is known here: what is asked of it then is another's choice.
        """
        return HostLimiters(
            self._observer,
            total=self._total,
            patience=self._patience,
            given_up=Scope.IMAGE,
            clock=self._clock,
            sleep=self._sleep,
        )

    def __call__(self, host: str, kind: str) -> HostLimiter:
        """Return the gate for `kind` of endpoints at `host`, `host[:port]`."""
        key = (host, kind)
        if key not in self._gates:
            self._gates[key] = HostLimiter(
                self._health(host),
                KINDS[kind],
                kind=kind,
                observer=self._observer,
                total=self._total,
                clock=self._clock,
                sleep=self._sleep,
            )

        return self._gates[key]

    def _health(self, host: str) -> Health:
        if host not in self._hosts:
            self._hosts[host] = Health(
                host,
                patience=self._patience,
                given_up=self._given_up,
                observer=self._observer,
                clock=self._clock,
                sleep=self._sleep,
            )

        return self._hosts[host]
