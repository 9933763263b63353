"""The interface of a target for the bytes of one blob."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from ..http.bodies import Fill


class Segment(Protocol):
    """Consecutive bytes of a blob, from `offset` up to `end`, which is not included."""

    @property
    def offset(self) -> int:
        """The position of the next byte."""

    @property
    def end(self) -> int:
        """The end of the segment."""

    def threaded(self) -> Fill | None:
        """Return the function by which a thread appends bytes like `receive`, None if only the event loop can."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`. Bytes that arrived before an error are kept.

        :raises SizeMismatch: if they exceed the segment.
        :raises ReadInterrupted: if they end before it does.
        """

    async def flush(self) -> None:
        """Write the rest of a complete segment."""


class SegmentedSink(Protocol):
    """A sink that takes the bytes of a blob in any order."""

    def gaps(self) -> Sequence[tuple[int, int]]:
        """Return the missing ranges, `(start, end)`, in order."""

    async def segment(self, start: int, end: int) -> Segment:
        """Return a segment within a gap. The first one must be requested before the others."""


class Sink(Protocol):
    """The destination of one blob, written from its start or from where an earlier attempt broke off."""

    @property
    def offset(self) -> int:
        """The number of bytes written, from the start."""

    async def prepare(self) -> None:
        """Prepare an attempt; afterwards, `offset` is the position to continue from."""

    def segments(self) -> SegmentedSink | None:
        """Return the sink as one that takes segments, None if it can't."""

    def threaded(self) -> Fill | None:
        """Return the function by which a thread appends bytes like `receive`, None if only the event loop can."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`. Errors raised by the source pass through.

        :raises SizeMismatch: if they exceed the size announced.
        """

    async def reset(self) -> None:
        """Discard everything written so far."""

    async def commit(self) -> None:
        """Verify the written bytes and publish them as the blob.

        :raises ReadInterrupted: if bytes are missing.
        :raises DigestMismatch: if the bytes are wrong.
        """
