"""How much goes to a host at a time: slots, a pace, and pauses when the host asks for one.

A window that grows by one for each window of good answers and halves when the host says "too much" (AIMD, as in TCP,
RFC 5681). A host that says so again soon counts requests a second: then a pace is kept, too, which comes back quickly
to near where it was too fast, probes carefully around there, and speeds up again beyond (as CUBIC does, RFC 9438).
A pause holds back *everybody* who wants to talk to that host, not only the one who was told.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from ..events import HostPaused, Observer, ignore

# One signal of overload reaches us as many answers: those of one burst count once.
_SETTLE_SECONDS = 1.0
# A second signal within this time: it is the rate that is too high.
_AGAIN_SECONDS = 10.0
_RATE_WINDOW_SECONDS = 5.0
_MIN_RATE = 0.5
# Growth an answer: far from the rate that was too high, and near it.
_FAST, _CAREFUL = 1.02, 1.0005
_NEAR = 0.2
# What is left of the rate after a complaint (RFC 9438, 4.6).
_BACK_OFF = 0.7


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """A look at one gate: requests in flight, how many may be, requests a second (None: no limit), pause left in s."""

    active: int
    window: int
    rate: float | None
    paused: float


class Gate:
    """The way to one class of endpoints of one host."""

    def __init__(
        self,
        name: str,
        *,
        start: int,
        most: int,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.name = name
        self._most = most
        self._window = float(start)
        self._limiter = anyio.CapacityLimiter(start)
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._paused_until = 0.0
        self._next_start = 0.0
        self._rate: float | None = None
        self._too_fast = 0.0
        self._last_slowdown = float("-inf")
        self._answers: deque[float] = deque(maxlen=256)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until a request may start, and count it as in flight while the context lasts."""
        holder = object()
        await self._admit(holder)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(holder)

    async def _admit(self, holder: object) -> None:
        while True:
            await self._wait_for_opening()
            await self._limiter.acquire_on_behalf_of(holder)
            if self._clock() >= self._paused_until:
                break

            # The host closed while we waited for the slot: someone else may need it for what is running there.
            self._limiter.release_on_behalf_of(holder)

        try:
            await self._keep_pace()
        except BaseException:
            self._limiter.release_on_behalf_of(holder)
            raise

    async def _wait_for_opening(self) -> None:
        while (left := self._paused_until - self._clock()) > 0:
            # Not all at once when it opens again.
            await self._sleep(left + random.uniform(0, min(left / 10, 1.0)))

    async def _keep_pace(self) -> None:
        if self._rate is None:
            return

        now = self._clock()
        start = max(now, self._next_start)
        self._next_start = start + 1 / self._rate
        if start > now:
            await self._sleep(start - now)

    def answered(self) -> None:
        """Note an answer that was no complaint: the window grows by one per window of these, the pace with them."""
        self._answers.append(self._clock())
        if self._rate is not None:
            is_near = abs(self._rate / self._too_fast - 1) < _NEAR
            self._rate *= _CAREFUL if is_near else _FAST

        if self._window < self._most:
            self._window = min(self._most, self._window + 1 / self._window)
            self._limiter.total_tokens = int(self._window)

    def overloaded(self, *, pause: float, reason: str) -> None:
        """Note that the host asked for patience: nobody starts for `pause` seconds, and then at half the speed."""
        now = self._clock()
        if now + pause > self._paused_until:
            self._paused_until = now + pause
            self._observer(HostPaused(self.name, pause, reason))

        since_last = now - self._last_slowdown
        if since_last <= _SETTLE_SECONDS:
            return

        self._last_slowdown = now
        self._window = max(1.0, self._window / 2)
        self._limiter.total_tokens = int(self._window)
        if since_last <= _AGAIN_SECONDS or self._rate is not None:
            self._too_fast = max(_MIN_RATE, min(self._rate or float("inf"), self._observed_rate()))
            self._rate = max(_MIN_RATE, self._too_fast * _BACK_OFF)

    def _observed_rate(self) -> float:
        now = self._clock()
        recent = sum(1 for answered in self._answers if now - answered <= _RATE_WINDOW_SECONDS)
        return recent / _RATE_WINDOW_SECONDS

    def statistics(self) -> GateStatistics:
        """Return how things stand at this gate."""
        paused = max(0.0, self._paused_until - self._clock())
        return GateStatistics(self._limiter.borrowed_tokens, int(self._window), self._rate, paused)
