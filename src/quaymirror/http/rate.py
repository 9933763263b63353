"""Rate limits that are exact over time for any number of callers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio


class RateLimiter:
    """Limits units per second to `rate`, with up to `burst` units on top after unused time.

    It is the generic cell rate algorithm (ITU-T I.371): its state is the time until which everything is given out, so
    that any stretch of T seconds holds at most `rate * T + burst` units and one turn.
    """

    def __init__(self, rate: float, *, burst: float = 0.0) -> None:
        self.rate = rate
        self.burst = burst
        self._given_until = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds until a turn is free."""
        return max(0.0, self._given_until - self.burst / self.rate - now)

    def reserve(self, now: float, units: float = 1.0) -> float:
        """Take a turn of `units`; return the seconds until it starts."""
        delay = self.delay(now)
        self._given_until = max(self._given_until, now) + units / self.rate
        return delay


class Throttle:
    """A rate limit that callers wait for."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._limiter = RateLimiter(rate)
        self._clock = clock
        self._sleep = sleep
        self.spent: float = 0.0
        """The units of all turns."""

    @property
    def rate(self) -> float:
        """Units per second."""
        return self._limiter.rate

    def spend(self, units: float = 1.0) -> float:
        """Take a turn without waiting for it; return the seconds that the caller should wait."""
        self.spent += units
        return self._limiter.reserve(self._clock(), units)

    async def take(self, units: float = 1.0) -> float:
        """Wait for a turn of `units`; return the seconds that it took."""
        delay = self.spend(units)
        if delay > 0:
            await self._sleep(delay)

        return delay
