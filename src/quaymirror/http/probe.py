"""Probe cautiously whether a host enforces the rate limit that its kind is known for."""

from __future__ import annotations

from .rate import RateLimiter

# This many requests beyond the limit, within two round trips, prove that it does not exist.
_ENOUGH = 6
_AT_FIRST = 2


class RateLimitProbe:
    """A limit of `rate` requests per second with a `burst` on top, kept until it is disproved.

    Requests within the limit start at once. Beyond it two requests try whether they pass, then as many more as have
    passed: a host without the limit costs two round trips, and one with it rejects about two requests.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._limit = RateLimiter(rate, burst=burst)
        self._trying = 0
        self._passed = 0
        self.is_over: bool = False
        """True if the question is decided."""

    def admit(self, now: float) -> tuple[float, bool]:
        """Return the seconds until the caller should ask again, 0 if its request may start, and if that is a trial.

        `finish` has to be called after a trial.
        """
        if self.is_over:
            return 0.0, False

        delay = self._limit.delay(now)
        if delay == 0:
            self._limit.reserve(now)
            return 0.0, False

        if self._trying < _AT_FIRST + self._passed:
            self._trying += 1
            return 0.0, True

        return delay, False

    def finish(self, *, passed: bool) -> None:
        """Record the result of a trial."""
        self._trying -= 1
        self._passed += passed
        self.is_over = self.is_over or self._passed >= _ENOUGH

    def end(self) -> None:
        """Record that the host has complained: the question is decided."""
        self.is_over = True
