"""Per-host health: pauses requested by the host, and a failure budget before it is treated as down.

A host that fails most requests is *down*: then one request at a time probes it, at growing intervals, and all others
wait. This bounds the cost of an outage on both sides, and waiting uses up no retries.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ..errors import RateLimited, Scope, Unavailable

# Each failure costs one, each answer earns half: a host may fail a third of all requests for ever, but not more.
_CREDIT = 20.0
_EARNED = 0.5
_CREDIT_AFTER_OUTAGE = 5.0
# A run with few requests exhausts its retries before the credit is used up, so a short streak of failures also marks
# the host as down.
_SILENT_FAILURES = 3
_SILENT_SECONDS = 2.0
_MAX_PROBE_INTERVAL = 60.0
# A host that never answered is given up earlier.
_NEVER_SEEN_PATIENCE = 30.0
# One failure arrives as many answers, each a moment later: it is reported once.
_SAME_SECONDS = 0.5
# Failures older than this start a new incident.
_FORGET_SECONDS = 120.0


class Health:
    """The health of one host, as a function of the times and results of requests to it.

    `patience` is for how many seconds the run waits for it to come back, `given_up` the scope of the error afterwards.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = 900.0,
        given_up: Scope = Scope.RUN,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = name
        self.given_up = given_up
        self._patience = patience
        self._uniform = uniform
        self._closed_until = float("-inf")
        self._credit = _CREDIT
        self._outages = 0
        self._has_answered = False
        self._failures_in_a_row = 0
        self._failing_since = 0.0
        self._incident_since: float | None = None
        self._reason = ""
        self._is_probing = False
        self.is_down: bool = False
        """True if the host fails most requests."""

    @property
    def has_answered(self) -> bool:
        """True if the host has answered a request."""
        return self._has_answered

    def pause_left(self, now: float) -> float:
        """Return the seconds until requests may be sent."""
        return max(0.0, self._closed_until - now)

    def delay(self, now: float) -> float:
        """Return the seconds until a request may start, 0 for at once; infinity until the probe has finished.

        :raises RateLimited: if the host asks for a pause that exceeds the patience.
        :raises Unavailable: if it has failed for longer than that.
        """
        self._check_patience(now)
        left = self.pause_left(now)
        return float("inf") if left == 0 and self.is_down and self._is_probing else left

    def admit(self) -> bool:
        """Admit a request whose delay is 0; return True if it is the probe of a host that was down."""
        self._is_probing = self._is_probing or self.is_down
        return self.is_down

    def probe_finished(self) -> None:
        """Record that the probe has ended, with whatever result."""
        self._is_probing = False

    def pause(self, now: float, seconds: float, reason: str) -> bool:
        """Record that the host asked for a pause; return True if that is news."""
        self._note_incident(now, reason)
        return self._close(now, seconds)

    def record_success(self) -> bool:
        """Record a proper answer; return True if the host was down."""
        was_down, self.is_down = self.is_down, False
        self._has_answered = True
        self._failures_in_a_row = 0
        self._incident_since = None
        self._credit = min(_CREDIT, (_CREDIT_AFTER_OUTAGE if was_down else self._credit) + _EARNED)
        if self._credit == _CREDIT:
            self._outages = 0

        return was_down

    def record_failure(self, now: float, reason: str) -> float:
        """Record a request without a usable answer; return the seconds of a pause that starts now, 0 for none."""
        self._note_incident(now, reason)
        self._credit -= 1
        seconds = 0.0
        if self.is_down or self._credit < 0 or self._is_silent(now):
            if not self.is_down or self._is_probing:
                self._outages += 1
                pause = self._uniform(0.5, 1) * min(_MAX_PROBE_INTERVAL, 2.0**self._outages)
                seconds = pause if self._close(now, pause) else 0.0

            self.is_down = True

        return seconds

    def _is_silent(self, now: float) -> bool:
        """Count a failure; return whether a host that has answered before only fails since a while."""
        self._failures_in_a_row += 1
        if self._failures_in_a_row == 1:
            self._failing_since = now

        is_long = now - self._failing_since >= _SILENT_SECONDS
        return self._has_answered and is_long and self._failures_in_a_row >= _SILENT_FAILURES

    def _close(self, now: float, seconds: float) -> bool:
        until = now + seconds
        is_news = until > self._closed_until + _SAME_SECONDS
        self._closed_until = max(self._closed_until, until)
        return is_news

    def _note_incident(self, now: float, reason: str) -> None:
        self._reason = reason
        if self._incident_since is None or now > self._closed_until + _FORGET_SECONDS:
            self._incident_since = now

    def _check_patience(self, now: float) -> None:
        left = self.pause_left(now)
        if left > self._patience:
            raise RateLimited(
                f"{self.name} requested a pause of {left:,.0f} s ({self._reason}), "
                f"more than the limit of {self._patience:,.0f} s",
                retry_after=left,
                scope=self.given_up,
            )

        patience = self._patience if self._has_answered else min(self._patience, _NEVER_SEEN_PATIENCE)
        since = self._incident_since
        if since is not None and left > 0 and now - since > patience:
            scope = self.given_up if self._has_answered else Scope.IMAGE
            raise Unavailable(f"{self.name} has been failing for {now - since:,.0f} s: {self._reason}", scope=scope)
