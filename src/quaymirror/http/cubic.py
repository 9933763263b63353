"""The request rate that a host takes, found by CUBIC (RFC 9438).

After a complaint the rate returns quickly to the one that was possible before, stays there for a while, and then tries
more.
"""

from __future__ import annotations

from collections import deque

# Complaints about one burst arrive as many answers: within this time they count once.
_SETTLE_SECONDS = 1.0
_OBSERVED_SECONDS = 2.0
_TELLING_ANSWERS = 40
_MIN_RATE = 0.5
# Above this a rate is not a limit any more.
_MAX_RATE = 10_000.0
# CUBIC's beta, and the seconds until the rate has recovered: they determine its third constant.
_KEPT = 0.7
_RECOVERY_SECONDS = 16.0
_STEEPNESS = (1 - _KEPT) / _RECOVERY_SECONDS**3


class CubicRate:
    """Estimates the requests per second that a host takes; `documented` is the limit that its kind is known for."""

    def __init__(self, documented: float | None = None) -> None:
        self._documented = documented
        self._ceiling: float | None = None
        self._recovering_since = 0.0
        self._head_start = 0.0
        self._last_complaint = float("-inf")
        self._answers: deque[float] = deque(maxlen=1024)

    @property
    def is_limited(self) -> bool:
        """True if the host has shown a limit."""
        return self._ceiling is not None

    def rate(self, now: float) -> float | None:
        """Return the requests per second to send at the moment, None for no limit."""
        if self._ceiling is None:
            return None

        elapsed = now - self._recovering_since - _RECOVERY_SECONDS
        rate = self._ceiling * max(_KEPT, 1 + _STEEPNESS * elapsed**3)
        return max(_MIN_RATE, rate) if rate < _MAX_RATE else None

    def record_answer(self, now: float) -> None:
        """Record an answer that was not a complaint."""
        self._answers.append(now)

    def record_complaint(self, now: float, pause: float) -> bool:
        """Record a complaint, after which nothing is sent for `pause` seconds; return True if it is a new one."""
        is_new = now - self._last_complaint > _SETTLE_SECONDS
        if is_new:
            # The first complaint confirms a documented limit: less caution is needed.
            is_expected = self._documented is not None and self._ceiling is None
            self._head_start = _RECOVERY_SECONDS / 2 if is_expected else 0.0
            self._ceiling = self._possible_rate(now) if self._is_about_rate(now) else None

        self._last_complaint = now
        self._recovering_since = now + pause - self._head_start
        return is_new

    def _is_about_rate(self, now: float) -> bool:
        """Return whether a complaint is about requests per second; after few requests it has another reason."""
        if self._ceiling is not None or self._documented is not None:
            return True

        return sum(answer >= now - _OBSERVED_SECONDS for answer in self._answers) >= _TELLING_ANSWERS

    def _possible_rate(self, now: float) -> float:
        """Return the rate since the last complaint, or the documented one the first time."""
        if self._ceiling is None:
            return max(_MIN_RATE, self._documented or self._observed(now - _OBSERVED_SECONDS, now))

        # The host's bucket was full then and is full now, so the answers in between are its limit. After few requests
        # they are not: the rate never drops below half.
        rate = self.rate(now) or _MAX_RATE
        return max(_MIN_RATE, min(rate, max(rate / 2, self._observed(self._last_complaint, now))))

    def _observed(self, since: float, now: float) -> float:
        passed = [answer for answer in self._answers if answer >= since]
        if len(passed) == self._answers.maxlen:
            since = passed[0]

        return len(passed) / max(0.1, now - since)
