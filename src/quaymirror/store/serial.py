"""Blocking calls that have to follow each other, off the event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Serial:
    """Runs one call after the other in a thread.

    What is asked for while another call runs goes there together: to wake up a thread, and to be woken up by it, takes
    longer than most calls.
    """

    def __init__(self) -> None:
        self._waiting: list[_Call] = []
        self._turn = anyio.Lock(fast_acquire=True)
        # Its own thread: those of the default limiter may all be waiting for something that needs this one.
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` returns, or raise what it raises. What was begun ends, even if nobody waits for it."""
        call = _Call(partial(function, *arguments))
        self._waiting.append(call)
        async with self._turn:
            if not call.is_over:
                calls, self._waiting = self._waiting, []
                await anyio.to_thread.run_sync(_run, calls, limiter=self._thread)

        if call.error is not None:
            raise call.error

        result: T = call.result
        return result


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
