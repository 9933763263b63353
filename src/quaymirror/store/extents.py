"""Which bytes of a file are there: a set of stretches, and how it is written down beside the file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class Extents:
    """The bytes that are there, as stretches `(start, end)`, `end` not included. Not for two threads at a time."""

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        self._stretches: list[tuple[int, int]] = []
        for start, end in stretches:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Note that the bytes from `start` to `end` are there."""
        if start >= end:
            return

        # All that overlap or touch become one with it.
        first = bisect_left(self._stretches, start, key=lambda stretch: stretch[1])
        last = first
        while last < len(self._stretches) and self._stretches[last][0] <= end:
            start, end = min(start, self._stretches[last][0]), max(end, self._stretches[last][1])
            last += 1

        self._stretches[first:last] = [(start, end)]

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start, without a gap."""
        return self._stretches[0][1] if self._stretches and self._stretches[0][0] == 0 else 0

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Return what is missing of the first `size` bytes, in order."""
        edges = [0, *(edge for stretch in self._stretches for edge in stretch), size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < min(end, size)]

    def clear(self) -> None:
        """Forget all of it."""
        self._stretches.clear()


def line(start: int, end: int) -> bytes:
    """Return how a stretch is written down: one line each, appended when its bytes were written."""
    return b"%d %d\n" % (start, end)


def parse(text: bytes, size: int) -> Extents:
    """Return what `text` says is there of `size` bytes; lines that make no sense say nothing."""
    extents = Extents()
    # What follows the last line break was being written when it ended.
    for words in (row.split(b" ") for row in text.split(b"\n")[:-1]):
        if len(words) == 2 and all(word.isdigit() and len(word) < 20 for word in words):
            start, end = int(words[0]), int(words[1])
            if start < end <= size:
                extents.add(start, end)

    return extents
