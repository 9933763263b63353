"""Finding out, without annoying anybody, whether a host has the limit that hosts of its kind are known for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from .rate import RateLimiter

# So many requests beyond the limit, within two round trips, make it plain that there is none.
_ENOUGH = 6
_AT_FIRST = 2


class RateLimitProbe:
    """A limit of `rate` requests a second and `burst` on top, kept until it has shown to be none.

    What stays within it goes at once. Beyond it two requests try whether they pass, then as many more as have: a host
    without limits costs two round trips, and one with them refuses two requests or so.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._limit = RateLimiter(rate, burst=burst, clock=clock, sleep=sleep)
        self._sleep = sleep
        self._trying = 0
        self._passed = 0
        self._changed = anyio.Event()
        self.is_over = False
        """Whether there is nothing to find out any more."""

    async def enter(self) -> bool:
        """Wait until a request may be sent; tell whether it goes beyond the limit: then `left` has to be called."""
        while not self.is_over:
            wait = self._limit.wait()
            if wait == 0:
                self._limit.spend()
                return False

            if self._trying < _AT_FIRST + self._passed:
                self._trying += 1
                return True

            await self._changed_within(wait)

        return False

    def left(self, *, passed: bool) -> None:
        """Note how a request went that was beyond the limit."""
        self._trying -= 1
        self._passed += passed
        self.is_over = self.is_over or self._passed >= _ENOUGH
        self._wake()

    def end(self) -> None:
        """Note that the host has complained: nobody needs to try any more."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _changed_within(self, seconds: float) -> None:
        changed = self._changed
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await self._sleep(seconds)
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await changed.wait()
            tasks.cancel_scope.cancel()
