"""Executors of blocking calls: one that runs them one after the other, and a pool for many short ones.

A switch to a thread and back takes longer than most calls, so calls that arrive while one runs share the next switch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..values import dataclass

T = TypeVar("T")

# Many calls in a row take less. A slow disk takes more: then several threads wait for it.
_LATE_SECONDS = 0.003


class SerialExecutor:
    """Runs one call after the other in its own thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = float("inf")
        self._waiting: list[_Call] = []
        self._turn = anyio.Lock(fast_acquire=True)
        # Its own thread: those of the default limiter may all be waiting for a call that needs this one.
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the result of `function`.

        If the caller is cancelled before the call started, the call is dropped; otherwise cancellation waits for the
        call to finish.
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
            # Other callers wait for this switch as well.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_run, calls, limiter=self._thread)
        finally:
            self._began = float("inf")
            # If no thread could be started, each caller fails by itself.
            self._waiting[:0] = [call for call in calls if not call.is_over]

    async def _leave(self, call: _Call) -> None:
        """Drop `call`, or wait until it has finished: its arguments may not outlive the caller."""
        if call not in self._waiting:
            with anyio.CancelScope(shield=True):
                async with self._turn:
                    pass

        if call in self._waiting:
            self._waiting.remove(call)

    @property
    def waiting(self) -> int:
        """The number of calls that wait for others to finish."""
        return len(self._waiting)

    @property
    def is_late(self) -> bool:
        """Return True if the running calls take long."""
        return self._clock() - self._began > _LATE_SECONDS


class ExecutorPool:
    """Runs calls in one thread as long as it keeps up, and in further ones while it takes long."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._executors = [SerialExecutor(clock=clock) for _ in range(count)]

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the result of `function`; see `SerialExecutor.run`."""
        prompt = (executor for executor in self._executors if not executor.is_late)
        return await next(prompt, min(self._executors, key=lambda one: one.waiting)).run(function, *arguments)


@dataclass(slots=True, eq=False)
class _Call:
    function: Callable[[], Any]
    is_over: bool = False
    result: Any = None
    error: BaseException | None = None


def _run(calls: Sequence[_Call]) -> None:
    for call in calls:
        try:
            call.result = call.function()
        except BaseException as error:
            call.error = error

        call.is_over = True
