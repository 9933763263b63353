"""Per-host health: pauses requested by the host, and a failure budget before it is treated as down.

A host that fails most requests is *down* until it answers a request that depends on no image: one task at a time sends
that, at growing intervals, and all others wait. This bounds the cost of an outage on both sides, and waiting uses up no
retries. A host that answers it at once was not down: for a while, failures then concern the requested content only.

A host that a server named, such as a CDN, can fail images and never ends the run; and since one link may be the reason
of its answer, it is paused for long only if several requests in a row are answered so.
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
# For so long after an answer to a probe, failures concern the requested content only.
_PROVEN_SECONDS = 60.0
# For a host that a server named: the complaints in a row that make it pause, or be given up, and the pause before.
_CONFIRMED = 2
_GIVEN_UP = 10
_UNCONFIRMED_SECONDS = 1.0


class Health:
    """The health of one host, as a function of the times and results of requests to it.

    `patience` is for how many seconds the run waits for it to come back, `given_up` the scope of the error afterwards.
    `is_named` is True for a host that a server named.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = 900.0,
        given_up: Scope = Scope.RUN,
        is_named: bool = False,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = name
        self.given_up = given_up
        self.is_named = is_named
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
        self._answered_at = float("-inf")
        self._proven_until = float("-inf")
        self._complaints = 0
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
        self._complaints += 1
        enough = _CONFIRMED if seconds <= self._patience else _GIVEN_UP
        is_confirmed = not self.is_named or self._complaints >= enough
        return self._close(now, seconds if is_confirmed else min(seconds, _UNCONFIRMED_SECONDS))

    def record_success(self, now: float) -> bool:
        """Record a proper answer; return True if the host was down."""
        was_down, self.is_down = self.is_down, False
        if was_down:
            self._proven_until = now + _PROVEN_SECONDS

        self._has_answered = True
        self._answered_at = now
        self._complaints = 0
        self._failures_in_a_row = 0
        self._incident_since = None
        self._credit = min(_CREDIT, (_CREDIT_AFTER_OUTAGE if was_down else self._credit) + _EARNED)
        if self._credit == _CREDIT:
            self._outages = 0

        return was_down

    def record_failure(self, now: float, reason: str, *, silent_since: float | None = None) -> float:
        """Record a request without a usable answer; return the seconds of a pause that starts now, 0 for none.

        `silent_since` is the time of the request if no answer came at all.
        """
        self._note_incident(now, reason)
        if self.is_down:
            return self._record_outage(now) if self._is_probing else 0.0

        is_silent = silent_since is not None and self._answered_at < silent_since
        if now >= self._proven_until or is_silent:
            self._credit -= 1
            # The next request probes it at once.
            self.is_down = self._credit < 0 or self._is_silent(now) or is_silent

        return 0.0

    def _record_outage(self, now: float) -> float:
        self._outages += 1
        pause = self._uniform(0.5, 1) * min(_MAX_PROBE_INTERVAL, 2.0**self._outages)
        return pause if self._close(now, pause) else 0.0

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
