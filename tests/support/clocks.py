"""Clocks that don't wait."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import anyio
import anyio.lowlevel

# Between two sleeps, tasks take fewer loop iterations than this, because they wait for nothing real.
_SETTLED = 25


class ManualClock:
    """A clock that jumps to the time at which the first sleeping task wakes up."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._number = count()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock shows `seconds` more."""
        entry = (self.now + max(0.0, seconds), next(self._number), anyio.Event())
        heapq.heappush(self._sleepers, entry)
        try:
            await entry[2].wait()
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)

    async def run(self) -> None:
        """Let time pass whenever all tasks sleep; runs until it is cancelled."""
        while True:
            for _ in range(_SETTLED):
                await anyio.lowlevel.checkpoint()

            if self._sleepers:
                due, _, event = heapq.heappop(self._sleepers)
                self.now = max(self.now, due)
                event.set()


@asynccontextmanager
async def running_clock(now: float = 100.0) -> AsyncIterator[ManualClock]:
    """A clock that runs as long as the context lasts, without any time passing outside."""
    clock = ManualClock(now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.run)
        yield clock
        tasks.cancel_scope.cancel()
