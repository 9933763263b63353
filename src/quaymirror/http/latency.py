"""How far away a host is: near enough that one connection gives all it has, or so far that many are needed."""

from __future__ import annotations

# Who answers sooner is near: what more requests at a time could gain there, their memory and CPU cost again.
_FAR_SECONDS = 0.02
# The first answers of a near host can be late, too, when many ask it at once and connect.
_TELLING_ANSWERS = 8


class LatencyClass:
    """What answers tell of it: the soonest of the first few counts, since the others may have waited for us."""

    def __init__(self) -> None:
        self._answers = 0
        self.is_far = False
        """Whether it has shown to be far away."""
        self.is_known = False
        """Whether there is nothing to find out any more."""

    def answered(self, seconds: float) -> bool:
        """Note an answer that began after so many `seconds`; tell whether the host is known to be far away now."""
        if not self.is_known:
            self._answers += 1
            self.is_far = seconds >= _FAR_SECONDS and self._answers >= _TELLING_ANSWERS
            self.is_known = self.is_far or seconds < _FAR_SECONDS

        return self.is_far
