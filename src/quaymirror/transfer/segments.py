"""Fetch a large blob over several connections at once: one connection to a distant server is slow.

The segments are requested in order, so that hashing follows closely. They are large at first and smaller towards the
end (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987), so that all
connections finish at about the same time. The first segment shows whether the server supports ranges: if it sends
everything instead, the blob is received in order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import field

import anyio

from ..errors.base import QuaymirrorError, Scope
from ..errors.transport import RangeRefused, ReadInterrupted, TransportError
from ..progress.meters import Meter
from ..registry.source import Attempts, BlobRequest, BlobSource, BlobStream
from ..store.sink import Segment, SegmentedSink, Sink
from ..tasks import run_all
from ..values import dataclass
from .slots import FetchSlots
from .stream import PROGRESS_BYTES, BlobProgress

# This takes several round trips even on a fast connection: for less, another request costs more than it gains.
_LEAST_BYTES = 8 * 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_MOST_AT_ONCE = 16
# A server that answers sooner is near: one connection is as fast as several. The first answer takes several round
# trips, since there may be two hosts, each with connections and handshakes to come.
_FAR_SECONDS = 0.05


async def fetch_segments(source: BlobSource, sink: Sink, slots: FetchSlots, progress: BlobProgress) -> None:
    """Fetch the missing bytes of a large blob in segments, as far as source and sink support that.

    Bytes that are still missing afterwards must be received in order. Each segment holds a slot of its own.

    :raises QuaymirrorError: if a segment can't be fetched.
    """
    segments = sink.segments()
    if segments is None:
        return

    gaps = segments.gaps()
    plan = SegmentPlan(gaps, most=min(_MOST_AT_ONCE, slots.blobs))
    # An interrupted transfer may have left gaps so small that one worker is enough for them.
    if plan.workers < 2 and all(end == progress.blob.size for _, end in gaps):
        return

    with ExitStack() as shown:
        fetcher = SegmentFetcher(source, sink, segments, slots, progress, plan, shown, plan.left)
        with suppress(RangeRefused):  # the rest is requested without a range
            await run_all([fetcher.fetch_first, *[fetcher.fetch_rest] * (plan.workers - 1)])


class SegmentPlan:
    """The bytes that are still to be fetched, claimed segment by segment by up to `workers` tasks."""

    def __init__(self, gaps: Iterable[tuple[int, int]], *, most: int) -> None:
        self._gaps = [*reversed([*gaps])]
        self.workers: int = max(1, min(most, self.left // _LEAST_BYTES))
        self.is_for_one = False
        """True if one worker is enough for the rest; it claims each gap as a whole."""

    @property
    def left(self) -> int:
        """The number of bytes that are not claimed."""
        return sum(end - start for start, end in self._gaps)

    def claim(self) -> tuple[int, int] | None:
        """Return the next segment, None after the last one."""
        if not self._gaps:
            return None

        start, end = self._gaps.pop()
        if self.is_for_one:
            return start, end

        size = max(_LEAST_BYTES, min(_MOST_BYTES, (self.left + end - start) // (2 * self.workers)))
        # A small remainder is not worth a request.
        if end - start >= size + _LEAST_BYTES // 2:
            self._gaps.append((start + size, end))
            end = start + size

        return start, end

    def stop(self) -> None:
        """Drop all segments that are not claimed."""
        self._gaps.clear()


@dataclass(slots=True)
class SegmentFetcher:
    """The workers that fetch the segments of one blob."""

    source: BlobSource
    sink: Sink
    segments: SegmentedSink
    slots: FetchSlots
    progress: BlobProgress
    plan: SegmentPlan
    shown: ExitStack
    missing: int
    _meter: Meter | None = None
    _is_known: anyio.Event = field(default_factory=anyio.Event)

    async def fetch_first(self) -> None:
        """Fetch the first segment, and then further ones."""
        try:
            await self._fetch()
        finally:
            self._is_known.set()

        while await self._fetch():
            pass

    async def fetch_rest(self) -> None:
        """Fetch segments once it is known that the server supports ranges."""
        await self._is_known.wait()
        while not self.plan.is_for_one and await self._fetch():
            pass

    async def _fetch(self) -> bool:
        """Fetch the next segment, with retries; return False after the last one."""
        attempts = self.source.attempts(self.progress.title, brief=self.progress.job.has_failed)
        segment: Segment | None = None
        location = None  # the first attempt requests the URL of the last redirect, if there was one
        async for attempt in attempts:
            with attempt:
                async with self.slots.blob(self.progress.blob.digest, self.progress.job.ticket):
                    # Claimed only with a slot, so that the order of the slots is that of the segments.
                    segment = segment or await self._claim()
                    if segment is None:
                        return False

                    location = self.progress.location if location is None else ""
                    await self._receive(segment, attempts, location)

        assert segment is not None
        await segment.flush()
        return True

    async def _claim(self) -> Segment | None:
        bounds = self.plan.claim()
        return None if bounds is None else await self.segments.segment(*bounds)

    async def _receive(self, segment: Segment, attempts: Attempts, location: str) -> None:
        start, requested = segment.offset, time.monotonic()
        try:
            while segment.offset < segment.end:  # a server may send less than all of it
                request = BlobRequest(
                    self.progress.repository,
                    self.progress.blob,
                    offset=segment.offset,
                    end=segment.end,
                    fresh=attempts.is_refetch,
                    location=location,
                    threaded=segment.threaded(),
                )
                stream = await self.source.open(request)
                with stream:
                    self.progress.location = location = stream.location
                    if stream.is_whole:
                        return await self._receive_whole(stream)

                    self._answered_after(time.monotonic() - requested)
                    await self._receive_part(segment, stream)
        except QuaymirrorError as error:
            if not self.progress.range_failed(error):
                raise

            # Another attempt would get the same answer.
            raise RangeRefused(error.message, scope=Scope.IMAGE) from None
        finally:
            if segment.offset - start >= PROGRESS_BYTES and not self.progress.is_slow:
                attempts.progress()

    async def _receive_part(self, segment: Segment, stream: BlobStream) -> None:
        try:
            await self.progress.receive(stream, segment, self._shown_meter())
        except ReadInterrupted:
            if not self.progress.is_part(stream, segment.offset):
                raise

    def _answered_after(self, seconds: float) -> None:
        """Record that the server supports ranges, and the latency of the first segment."""
        if not self._is_known.is_set():
            self.plan.is_for_one = seconds < _FAR_SECONDS
            self._is_known.set()

    async def _receive_whole(self, stream: BlobStream) -> None:
        """Receive all of the blob, since the server sends it already. The caller resumes it if it breaks off."""
        if self._is_known.is_set():
            raise RangeRefused(f"{self.progress.blob.digest}: the server sends everything instead of a segment")

        self.plan.stop()
        if self.sink.offset:
            await self.sink.reset()

        with suppress(TransportError):
            await self.progress.receive(stream, self.sink, self._shown_meter())

    def _shown_meter(self) -> Meter:
        """Return the meter that all segments share, shown as soon as the first one has a slot."""
        if self._meter is None:
            self._meter = self.shown.enter_context(self.progress.meter(self.progress.blob.size - self.missing))

        return self._meter
