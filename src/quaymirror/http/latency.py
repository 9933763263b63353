"""The latency of a host: near or far, and whether its answers wait for each other."""

from __future__ import annotations

# Below this latency a host is near: more concurrency would cost as much CPU and memory as it gains.
_FAR_SECONDS = 0.02
# The first answers of a near host can be late as well, if many requests connect at once.
_TELLING_ANSWERS = 8
# Answers that take this many times longer than the best ones wait in a queue of our requests; noise stays below 1 s.
_SLOW_FACTOR, _SLOW_SECONDS = 4.0, 1.0


class Latency:
    """Follows the seconds until answers begin. One early answer proves that the host is near."""

    def __init__(self) -> None:
        self._answers = 0
        self._average: float | None = None
        self._best = float("inf")
        self.is_far: bool = False
        """True if the host has proved to be far away."""
        self.is_known: bool = False
        """True if the distance has been decided."""

    def record(self, seconds: float) -> bool:
        """Record an answer; return True, once in a while, if answers have become slow."""
        if not self.is_known:
            self._answers += 1
            self.is_far = seconds >= _FAR_SECONDS and self._answers >= _TELLING_ANSWERS
            self.is_known = self.is_far or seconds < _FAR_SECONDS

        average = seconds if self._average is None else self._average + (seconds - self._average) / 8
        self._best = min(self._best, average)
        is_slow = average >= max(_SLOW_SECONDS, _SLOW_FACTOR * self._best)
        self._average = None if is_slow else average
        return is_slow
