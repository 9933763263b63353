"""Blocking calls off the event loop: those that have to follow each other, and those that are short and many.

To wake up a thread and to be woken up by it takes longer than most calls. So what is asked for while a call runs goes
to its thread together, in one hop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

# Many calls take less in a row. A disk that has to be waited for takes more, and several threads wait better.
_LATE_SECONDS = 0.003


class SerialExecutor:
    """Runs one call after the other in a thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = float("inf")
        self._waiting: list[_Call] = []
        self._turn = anyio.Lock(fast_acquire=True)
        # Its own thread: those of the default limiter may all be waiting for something that needs this one.
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` returns, or raise what it raises.

        Who is cancelled before it began leaves at once, and it is not called; then when it has ended.
        """
        call = _Call(partial(function, *arguments))
        self._waiting.append(call)
        try:
            while not call.is_over:
                async with self._turn:
                    if not call.is_over:
                        await self._run_waiting()
        except BaseException:
            await self._leave(call)
            raise

        if call.error is not None:
            raise call.error

        result: T = call.result
        return result

    async def _run_waiting(self) -> None:
        calls, self._waiting = self._waiting, []
        self._began = self._clock()
        try:
            # Others wait for this hop as well.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_run, calls, limiter=self._thread)
        finally:
            self._began = float("inf")
            # If no thread could be had, each of them finds that out by itself.
            self._waiting[:0] = [call for call in calls if not call.is_over]

    async def _leave(self, call: _Call) -> None:
        """Let `call` not run any more, or wait until it has: what it works with may be gone once its caller is."""
        if call not in self._waiting:
            with anyio.CancelScope(shield=True):
                async with self._turn:
                    pass

        if call in self._waiting:
            self._waiting.remove(call)

    @property
    def waiting(self) -> int:
        """How many calls wait for others to end."""
        return len(self._waiting)

    @property
    def is_late(self) -> bool:
        """Whether the calls at hand take long."""
        return self._clock() - self._began > _LATE_SECONDS


class ExecutorPool:
    """Runs calls in a few threads: in one as long as that keeps up, and in others while it takes long."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes = [SerialExecutor(clock=clock) for _ in range(count)]

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` returns, or raise what it raises; see `SerialExecutor.run`."""
        prompt = (lane for lane in self._lanes if not lane.is_late)
        return await next(prompt, min(self._lanes, key=lambda lane: lane.waiting)).run(function, *arguments)


class _Call:
    __slots__ = ("error", "function", "is_over", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

        self.is_over = True


def _run(calls: Sequence[_Call]) -> None:
    for call in calls:
        call.run()
