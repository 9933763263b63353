"""Timeouts of HTTP exchanges."""

from __future__ import annotations

from ..values import dataclass

# The time that one operation waits for a host that sends nothing.
_MOST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds until a connection, the head of a response, the next byte, or a small response must have arrived.

    The transfer of a blob has no total limit: a slow link is not an error, silence is. An operation is repeated after a
    timeout as after other failures, but timeouts take at most two minutes of it: with the defaults, the second one in a
    row fails it.
    """

    connect: float = 10.0
    headers: float = 60.0
    stall: float = 60.0
    total: float = 60.0

    @property
    def repeats(self) -> int:
        """The number of retries after timeouts in one operation: at least one."""
        longest = max(self.connect, self.headers, self.stall, self.total)
        return max(1, int(_MOST_SECONDS / longest) - 1) if longest > 0 else 1
