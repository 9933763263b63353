"""The window of concurrent requests: additive increase, multiplicative decrease, as in TCP (RFC 5681)."""

from __future__ import annotations


class Window:
    """The number of requests that may run at a time: `start` at first, at most `most`.

    With `far`, a near host never gets more than `start`, and a host that proves to be far gets `far` at once.
    """

    def __init__(self, start: int, most: int, far: int | None = None) -> None:
        self._start = start
        self._most = most
        self._far = far
        self._has_widened = False
        self._size = float(start)

    @property
    def size(self) -> int:
        """The number of requests that may run at a time, at least 1."""
        return int(self._size)

    def grow(self, *, is_far: bool, is_fast: bool) -> None:
        """Grow after a good answer: by one per window of them, or by one per answer if `is_fast`."""
        most = self._most if self._far is None or is_far else self._start
        if self._size < most:
            self._size = min(most, self._size + (1.0 if is_fast else 1 / self._size))

        if self._far is not None and is_far and not self._has_widened:
            self._has_widened = True
            self._size = max(self._size, self._far)

    def shrink(self) -> None:
        """Halve the window."""
        self._size = max(1.0, self._size / 2)
