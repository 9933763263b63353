"""Retries: the only layer that repeats a failed operation, and the only importer of tenacity.

The back-off is exponential with full jitter (Brooker, "Exponential Backoff and Jitter", 2015), unless the server says
when to come back. Only errors with the scope ATTEMPT are retried, so that cancellation always passes.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import field
from typing import TYPE_CHECKING, TypeGuard

import anyio

from ..errors import ContentError, HostDown, QuaymirrorError, RateLimited, Scope, StoreError, TimedOut
from ..events import Observer, RetryScheduled, ignore
from ..values import dataclass

if TYPE_CHECKING:
    from tenacity import AttemptManager, RetryCallState

_on_wait: ContextVar[Callable[[], None]] = ContextVar("on_wait", default=lambda: None)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of retries and the waits between them, in seconds.

    `retries` limits failures in a row without progress; a pause that the server asks for is not a failure. `patience`
    limits all waits of one operation without progress, and the time that a host which answered before may be away.
    Everything that waits for a server does it by `clock` and `sleep`.
    """

    retries: int = 5
    base: float = 0.5
    cap: float = 30.0
    patience: float = 900.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=anyio.sleep, repr=False)


@contextmanager
def before_waits(call: Callable[[], None]) -> Iterator[None]:
    """Call `call` before each wait for another attempt, of operations in this context and in tasks that it starts."""
    token = _on_wait.set(call)
    try:
        yield
    finally:
        _on_wait.reset(token)


def prepare() -> None:
    """Import what retries need: when one is needed, descriptors may have run out."""
    import tenacity  # noqa: F401 - by no command that sends no requests: it takes 5 ms


class Attempts:
    """The attempts of one operation: `async for attempt in attempts:`, with the operation inside of `with attempt:`.

    The iteration ends after the first attempt that succeeds. The error of a failed one is suppressed if the operation
    is worth another attempt; the last error is raised unchanged. `timeouts` limits the retries after timeouts, which
    take long.
    """

    def __init__(
        self, policy: RetryPolicy, what: str, *, host: str = "", timeouts: int = 1, observer: Observer = ignore
    ) -> None:
        self._policy = policy
        self._timeouts = timeouts
        self._host = host
        self._what = what
        self._observer = observer
        self._failures = 0
        self._limited: dict[type[QuaymirrorError], int] = {}
        self._waited = 0.0
        self._error: QuaymirrorError | None = None
        self._has_ended = False
        self._tenacity: AsyncIterator[AttemptManager] | None = None
        self._manager: AttemptManager | None = None
        self.is_refetch: bool = False
        """True if the next attempt needs another connection: this one brought wrong bytes, or too few of them."""

    def progress(self) -> None:
        """Forget earlier failures, because the operation has achieved something new; but not those of wrong bytes."""
        self._failures = 0
        self._limited.pop(TimedOut, None)
        self._waited = 0.0

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempts:
        if self._has_ended:
            raise StopAsyncIteration

        if self._error is not None:
            error, self._error = self._error, None
            await self._wait_after(error)

        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if _is_worth_it(error):
            self._error = error
            return True

        self._has_ended = True
        return False

    async def _wait_after(self, error: QuaymirrorError) -> None:
        """Wait until the next attempt, or raise `error` after the last one."""
        if self._is_hopeless(error):
            raise error

        _on_wait.get()()
        if self._tenacity is None:
            self._tenacity = self._start()
            self._manager = await anext(self._tenacity)

        assert self._manager is not None
        self._manager.retry_state.set_exception((type(error), error, error.__traceback__))
        try:
            self._manager = await anext(self._tenacity)
        except StoreError as last:
            raise last.replace(scope=Scope.RUN) from None  # nothing else gets what it needs from this machine either

    def _is_hopeless(self, error: QuaymirrorError) -> bool:
        """Return True if `error` is of a kind that `retries` limits, and none is allowed."""
        is_special = error.retries is not None or isinstance(error, HostDown | RateLimited | StoreError | TimedOut)
        return not self._policy.retries and not is_special

    def _start(self) -> AsyncIterator[AttemptManager]:
        from tenacity import AsyncRetrying, retry_if_exception

        return aiter(
            AsyncRetrying(
                retry=retry_if_exception(_is_worth_it),
                stop=self._give_up,
                wait=self._pause,
                before_sleep=self._announce,
                sleep=self._policy.sleep,
                reraise=True,
            )
        )

    def _give_up(self, state: RetryCallState) -> bool:
        # tenacity has computed the wait before it calls this.
        error = _error(state)
        self.is_refetch = isinstance(error, ContentError | TimedOut)
        self._waited += state.upcoming_sleep
        if isinstance(error, HostDown):
            return False  # the limiter waits for the host, and gives up

        if self._waited > self._policy.patience:
            return True

        limit = self._timeouts if error.retries is None and isinstance(error, TimedOut) else error.retries
        if limit is not None:
            count = self._limited[type(error)] = self._limited.get(type(error), 0) + 1
            if count > limit:
                return True

        if isinstance(error, RateLimited):
            return False

        self._failures += 1
        return self._failures > self._policy.retries

    def _pause(self, state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, HostDown):
            # Not all requests start at once afterwards.
            pause = error.retry_after or 0.0
            return pause + random.uniform(0, min(pause / 10, 1.0))

        if isinstance(error, RateLimited):
            if error.retry_after is not None:
                return error.retry_after

            # Full jitter could come back at once, and often: half of the wait is certain (see aws-sdk-net#4341). The
            # limiter also holds back all other requests.
            ceiling = min(60.0, 2.0 ** min(state.attempt_number - 1, 10))
            return random.uniform(ceiling / 2, ceiling)

        return random.uniform(0, min(self._policy.cap, self._policy.base * 2.0 ** min(self._failures, 16)))

    def _announce(self, state: RetryCallState) -> None:
        error = _error(state)
        if not isinstance(error, HostDown) or error.retry_after is None:  # the pause of a host is reported once
            event = RetryScheduled(self._what, state.attempt_number, state.upcoming_sleep, error.message, self._host)
            self._observer(event)


def _error(state: RetryCallState) -> QuaymirrorError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, QuaymirrorError)
    return error


def _is_worth_it(error: BaseException | None) -> TypeGuard[QuaymirrorError]:
    return isinstance(error, QuaymirrorError) and error.scope is Scope.ATTEMPT
