"""A limit on the bytes that concurrent transfers hold."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


class Budget:
    """A limit on the bytes that concurrent transfers together may hold. They wait in the order they ask."""

    def __init__(self, size: int) -> None:
        self.size: int = size
        """The number of bytes."""
        self._free = size
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    @property
    def is_used(self) -> bool:
        """True if bytes are reserved."""
        return self._free < self.size

    async def reserve(self, size: int) -> int:
        """Wait for `size` bytes, all of the budget at most, and return how many were reserved."""
        wanted = min(size, self.size)
        if self._waiting or wanted > self._free:
            event = anyio.Event()
            place = (wanted, event)
            self._waiting.append(place)
            try:
                await event.wait()
            except BaseException:
                if event.is_set():
                    self.release(wanted)
                else:
                    self._waiting.remove(place)
                    self._wake()

                raise
        else:
            self._free -= wanted

        return wanted

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncGenerator[None]:
        """Hold `size` bytes during the context; see `reserve`."""
        reserved = await self.reserve(size)
        try:
            yield
        finally:
            self.release(reserved)

    def try_more(self, size: int, *, leaving: int = 0) -> int:
        """Return `size` if so many bytes and `leaving` more are free and no transfer waits, otherwise 0."""
        if self._waiting or size > self._free - leaving:
            return 0

        self._free -= size
        return size

    def release(self, size: int) -> None:
        """Return reserved bytes."""
        self._free += size
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, event = self._waiting.popleft()
            self._free -= wanted
            event.set()
