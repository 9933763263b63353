"""The one layer that tries again: the door to tenacity.

Exponential back-off with full jitter (Brooker, "Exponential Backoff and Jitter", 2015); a server that says when to come
back is believed. Only errors whose scope is ATTEMPT are worth it: an allow-list by construction, since a predicate that
matches everything would swallow cancellation.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ..errors import AccessDenied, ContentError, HostDown, QuaymirrorError, RateLimited, Scope
from ..events import Observer, RetryScheduled, ignore
from .dates import parse_http_date

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")

# Of wrong bytes, and of a registry that contradicts its own token service.
_MAX_REFETCHES = 2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try again. Waits are in seconds.

    `retries` bounds failures in a row without progress; being told to wait is none. `patience` bounds all waiting of
    one operation without progress, and for how long a host that was there is waited for. Everything that waits for a
    server does it by `clock` and `sleep`.
    """

    retries: int = 5
    base: float = 0.5
    cap: float = 30.0
    patience: float = 900.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=anyio.sleep, repr=False)


class Attempts:
    """The tries of one operation. Tell it of progress, and what failed before is forgotten."""

    def __init__(self, policy: RetryPolicy, what: str, *, host: str = "", observer: Observer = ignore) -> None:
        self._policy = policy
        self._host = host
        self._what = what
        self._observer = observer
        self._failures = 0
        self._refetches = 0
        self._waited = 0.0
        self.is_refetch = False
        """Whether the last try ended with the wrong bytes."""

    def progress(self) -> None:
        """Forget earlier failures: something new was achieved."""
        self._failures = 0
        self._waited = 0.0

    async def run(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `operation` returns, calling it again while its failure is worth that.

        :raises QuaymirrorError: the last failure, unchanged.
        """
        try:
            return await operation()
        except QuaymirrorError as error:
            if not _is_worth_it(error):
                raise

            failure: QuaymirrorError | None = error

        # tenacity awaits only what is a coroutine function by name: this one is, whatever `operation` is.
        async def once() -> T:
            nonlocal failure
            if failure is not None:
                first, failure = failure, None
                raise first

            return await operation()

        return await self._retrying()(once)

    def _retrying(self) -> AsyncRetrying:
        # Imported when something has failed: most runs start, and end, without it.
        from tenacity import AsyncRetrying, retry_if_exception

        return AsyncRetrying(
            retry=retry_if_exception(_is_worth_it),
            stop=self._give_up,
            wait=self._wait,
            before_sleep=self._announce,
            sleep=self._policy.sleep,
            reraise=True,
        )

    def _give_up(self, state: RetryCallState) -> bool:
        # tenacity has asked for the wait already when it asks this.
        error = _error(state)
        self.is_refetch = isinstance(error, ContentError)
        self._waited += state.upcoming_sleep
        if isinstance(error, HostDown):
            return False  # its gate waits for it, and gives up

        if self._waited > self._policy.patience:
            return True

        if isinstance(error, RateLimited):
            return False

        if isinstance(error, ContentError | AccessDenied):
            self._refetches += 1
            if self._refetches > _MAX_REFETCHES:
                return True

        self._failures += 1
        return self._failures > self._policy.retries

    def _wait(self, state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, HostDown):
            return 0.0

        if isinstance(error, RateLimited):
            if error.retry_after is not None:
                return error.retry_after

            # Full jitter could come back at once, and often: half of the wait is certain (see aws-sdk-net#4341). The
            # gate holds everybody back besides.
            ceiling = min(60.0, 2.0 ** min(state.attempt_number - 1, 10))
            return random.uniform(ceiling / 2, ceiling)

        return random.uniform(0, min(self._policy.cap, self._policy.base * 2.0 ** min(self._failures, 16)))

    def _announce(self, state: RetryCallState) -> None:
        self._observer(
            RetryScheduled(self._what, state.attempt_number, state.upcoming_sleep, _error(state).message, self._host)
        )


def _error(state: RetryCallState) -> QuaymirrorError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, QuaymirrorError)
    return error


def _is_worth_it(error: BaseException) -> bool:
    return isinstance(error, QuaymirrorError) and error.scope is Scope.ATTEMPT


def parse_retry_after(value: str | None, *, date: str | None = None) -> float | None:
    """Return the seconds that a Retry-After field asks for (RFC 9110, 10.2.3), None if it says nothing usable.

    A time is counted from `date`, the Date field of the same answer, so that no clock but the server's matters; from
    now where there is none. A time in the past is 0 seconds.
    """
    text = (value or "").strip()
    # int() would also take +5, 1_0 and the digits of other scripts.
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)

    until = parse_http_date(text)
    return None if until is None else max(0.0, (until - (parse_http_date(date) or datetime.now(UTC))).total_seconds())
