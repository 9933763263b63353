"""An even pace: so much a second, exact over time, however many ask at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio


class RateLimiter:
    """Gives out turns, `rate` units of them a second, after an unused while up to `burst` units at once on top.

    It is the generic cell rate algorithm (ITU-T I.371): one number says until when everything is given away, so that
    no clock tick is lost and any stretch of T seconds holds at most `rate * T + burst` units and one turn.
    """

    def __init__(
        self,
        rate: float,
        *,
        burst: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._sleep = sleep
        self._given_until = float("-inf")

    async def take(self, units: float = 1.0) -> float:
        """Wait for a turn of `units`; return the seconds that took."""
        wait = self.spend(units)
        if wait > 0:
            await self._sleep(wait)

        return wait

    def wait(self) -> float:
        """Return the seconds until a turn could be had at once."""
        return max(0.0, self._given_until - self.burst / self.rate - self._clock())

    def spend(self, units: float = 1.0) -> float:
        """Take a turn now; return the seconds that whoever comes should have waited for it."""
        now = self._clock()
        start = max(self._given_until, now)
        self._given_until = start + units / self.rate
        return max(0.0, start - self.burst / self.rate - now)
