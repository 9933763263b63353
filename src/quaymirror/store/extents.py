"""Extents: the byte ranges of a partial file that have been written, and their text form."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class Extents:
    """A set of byte ranges `(start, end)`, `end` not included. Not safe for several threads."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to `end`."""
        if start >= end:
            return

        # Ranges that overlap or touch it are merged with it.
        first = bisect_left(self._ranges, start, key=lambda extent: extent[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            start, end = min(start, self._ranges[last][0]), max(end, self._ranges[last][1])
            last += 1

        self._ranges[first:last] = [(start, end)]

    @property
    def prefix(self) -> int:
        """The number of bytes from the start without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Return the missing ranges of the first `size` bytes, in order."""
        edges = [0, *(edge for extent in self._ranges for edge in extent), size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < min(end, size)]

    def clear(self) -> None:
        """Remove all ranges."""
        self._ranges.clear()


def line(start: int, end: int) -> bytes:
    """Return the line of a range, which is appended after its bytes were written."""
    return b"%d %d\n" % (start, end)


def parse(text: bytes, size: int) -> Extents:
    """Return the ranges of `size` bytes that `text` lists; lines that make no sense are ignored."""
    extents = Extents()
    # The last line is incomplete: it was being written when the process ended.
    for words in (row.split(b" ") for row in text.split(b"\n")[:-1]):
        if len(words) == 2 and all(word.isdigit() and len(word) < 20 for word in words):
            start, end = int(words[0]), int(words[1])
            if start < end <= size:
                extents.add(start, end)

    return extents
