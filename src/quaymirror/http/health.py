"""How a host fares: the pauses it asked for, and how much failing it is forgiven before it is left alone.

Every request of a run to one host passes here, whatever it is for. A host that fails most of what it is asked is
*down*: then one request at a time finds out whether it is back, at growing intervals, and everybody else waits. That
bounds what an outage costs both sides, and nobody's tries are used up by waiting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import anyio

from ..errors import RateLimited, Scope, Unavailable
from ..events import HostPaused, HostResumed, Observer, ignore

# Each failure costs one, each answer earns half: a third of all requests may fail for ever, more can't go on for long.
_CREDIT = 20.0
_EARNED = 0.5
_CREDIT_AFTER_OUTAGE = 5.0
# Who asks little would be out of tries long before that much credit is lost: nothing but failures for a while, says it.
_SILENT_FAILURES = 3
_SILENT_SECONDS = 2.0
_MAX_PROBE_INTERVAL = 60.0
# A host that was never there is not waited for as one that is away.
_NEVER_SEEN_PATIENCE = 30.0
_SAME_SECONDS = 0.5
# Trouble that long ago is another trouble.
_FORGET_SECONDS = 120.0


class Health:
    """The health of one host. `patience` is for how many seconds a run waits for it to come back.

    `given_up` is how far it reaches when it does not.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = 900.0,
        given_up: Scope = Scope.RUN,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.name = name
        self._patience = patience
        self.given_up = given_up
        """How far it reaches when this host can't be had."""
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._closed_until = float("-inf")
        self._is_paused = False
        self._credit = _CREDIT
        self._outages = 0
        self._has_answered = False
        self._failures_in_a_row = 0
        self._failing_since = 0.0
        self._trouble_since: float | None = None
        self._trouble = ""
        self._verdict = anyio.Event()
        self._is_probing = False
        self.is_down = False
        """Whether the host fails most of what it is asked."""

    @property
    def pause_left(self) -> float:
        """Seconds until anybody may ask again."""
        return max(0.0, self._closed_until - self._clock())

    async def ready(self) -> bool:
        """Wait until a request may be sent; tell whether it is the one that finds out if the host is back.

        :raises RateLimited: when the host asks for more patience than there is.
        :raises Unavailable: when it has been in trouble for longer than that.
        """
        while True:
            self._check_patience()
            if (left := self.pause_left) > 0:
                # Not all at once when it opens again.
                await self._sleep(left + random.uniform(0, min(left / 10, 1.0)))
            elif not self.is_down:
                self._resume()
                return False
            elif not self._is_probing:
                self._is_probing = True
                return True
            else:
                await self._verdict.wait()

    def probed(self) -> None:
        """Note that the request that was to find out has ended, however it did."""
        self._is_probing = False
        self._wake()

    def pause(self, seconds: float, reason: str) -> None:
        """Note that the host asked for `seconds` of patience: nobody asks it anything meanwhile."""
        self._in_trouble(reason)
        self._close(seconds, reason)

    def well(self) -> None:
        """Note a proper answer."""
        self._has_answered = True
        self._failures_in_a_row = 0
        self._trouble_since = None
        if self.is_down:
            self.is_down = False
            self._credit = _CREDIT_AFTER_OUTAGE
            self._wake()
            self._resume()

        self._credit = min(_CREDIT, self._credit + _EARNED)
        if self._credit == _CREDIT:
            self._outages = 0

    def failing(self, reason: str) -> None:
        """Note a request that came to nothing: no answer, or one that only says that the server is broken."""
        self._in_trouble(reason)
        self._credit -= 1
        if self.is_down or self._credit < 0 or self._is_silent():
            if not self.is_down or self._is_probing:
                self._outages += 1
                self._close(random.uniform(0.5, 1) * min(_MAX_PROBE_INTERVAL, 2.0**self._outages), reason)

            self.is_down = True

    def _is_silent(self) -> bool:
        """Note one more failure; tell whether a host that was there has done nothing else for a while."""
        now = self._clock()
        self._failures_in_a_row += 1
        if self._failures_in_a_row == 1:
            self._failing_since = now

        is_long = now - self._failing_since >= _SILENT_SECONDS
        return self._has_answered and is_long and self._failures_in_a_row >= _SILENT_FAILURES

    def _close(self, seconds: float, reason: str) -> None:
        until = self._clock() + seconds
        # One trouble reaches us as many answers, each a moment later: it is told once.
        if until > self._closed_until + _SAME_SECONDS:
            self._is_paused = True
            self._observer(HostPaused(self.name, seconds, reason))

        self._closed_until = max(self._closed_until, until)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._observer(HostResumed(self.name))

    def _in_trouble(self, reason: str) -> None:
        now = self._clock()
        self._trouble = reason
        if self._trouble_since is None or now > self._closed_until + _FORGET_SECONDS:
            self._trouble_since = now

    def _check_patience(self) -> None:
        if self.pause_left > self._patience:
            raise RateLimited(
                f"{self.name} asks for {self.pause_left:,.0f} s of patience ({self._trouble}): "
                f"more than the {self._patience:,.0f} s that there are",
                retry_after=self.pause_left,
                scope=self.given_up,
            )

        patience = self._patience if self._has_answered else min(self._patience, _NEVER_SEEN_PATIENCE)
        since = self._trouble_since
        if since is not None and self.pause_left > 0 and self._clock() - since > patience:
            scope = self.given_up if self._has_answered else Scope.IMAGE
            raise Unavailable(
                f"{self.name} has been in trouble for {self._clock() - since:,.0f} s: {self._trouble}", scope=scope
            )

    def _wake(self) -> None:
        self._verdict.set()
        self._verdict = anyio.Event()
