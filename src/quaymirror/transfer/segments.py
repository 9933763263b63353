"""Fetch a large blob over several connections at once: one connection of a distant server is slow.

The segments are requested in order, so that hashing follows closely. They are large at first and smaller towards the
end (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987), so that all
connections finish at about the same time. The first segment shows whether the server supports ranges: if it sends
everything instead, the blob is received in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import anyio

from ..errors import RangeRefused, Scope, TransportError
from ..http.retry import Attempts
from ..progress.meters import Meter, Meters
from ..registry.pull import BlobStream
from ..store.sink import Segment, SegmentedSink, Sink
from ..tasks import run_all
from .stream import PROGRESS_BYTES, Streams

# What takes several round trips even on a fast connection: below this, another request costs more than it gains.
_LEAST_BYTES = 8 * 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_MOST_AT_ONCE = 16
# Who answers sooner is near, where one connection gives all there is and more of them only cost. The first answer takes
# several round trips: there may be two hosts, each with connections and handshakes to come.
_FAR_SECONDS = 0.05


async def fetch_segments(
    streams: Streams,
    sink: Sink,
    *,
    slots: anyio.CapacityLimiter,
    meters: Meters,
    label: str,
    begins: Callable[[], None],
) -> None:
    """Bring what is missing of a large blob to `sink`, as far as that can be done in segments; each holds a slot.

    `begins` is called whenever one has got it.

    What is still missing then has to be received in order: all of it, or nothing.

    :raises QuaymirrorError: when a segment can't be had.
    """
    segments = sink.segments()
    if segments is None:
        return

    gaps = segments.gaps()
    plan = SegmentPlan(gaps, most=min(_MOST_AT_ONCE, int(slots.total_tokens)))
    # What an earlier run left may have gaps so small that one is enough for them.
    if plan.workers < 2 and all(end == streams.blob.size for _, end in gaps):
        return

    with ExitStack() as shown:
        fetcher = SegmentFetcher(streams, sink, segments, plan, slots, meters, label, begins, shown, missing=plan.left)
        # What was refused has to be asked another way.
        with suppress(RangeRefused):
            await run_all([fetcher.fetch_first, *[fetcher.fetch_rest] * (plan.workers - 1)])


class SegmentPlan:
    """What is still to be fetched, handed out segment by segment to `workers` at a time: as many as are worth it."""

    def __init__(self, gaps: Iterable[tuple[int, int]], *, most: int) -> None:
        self._gaps = [*reversed([*gaps])]
        self.workers = max(1, min(most, self.left // _LEAST_BYTES))
        self.is_for_one = False
        """Whether one is enough for what is left: then it gets each gap as a whole."""

    @property
    def left(self) -> int:
        """How many bytes nobody has taken."""
        return sum(end - start for start, end in self._gaps)

    def claim(self) -> tuple[int, int] | None:
        """Take the next segment, None when there is none."""
        if not self._gaps:
            return None

        start, end = self._gaps.pop()
        if self.is_for_one:
            return start, end

        size = max(_LEAST_BYTES, min(_MOST_BYTES, (self.left + end - start) // (2 * self.workers)))
        # No crumbs.
        if end - start >= size + _LEAST_BYTES // 2:
            self._gaps.append((start + size, end))
            end = start + size

        return start, end

    def stop(self) -> None:
        """Hand out no more."""
        self._gaps.clear()


@dataclass(slots=True)
class SegmentFetcher:
    """Those who fetch the segments of one blob."""

    streams: Streams
    sink: Sink
    segments: SegmentedSink
    plan: SegmentPlan
    slots: anyio.CapacityLimiter
    meters: Meters
    label: str
    begins: Callable[[], None]
    shown: ExitStack
    missing: int
    _meter: Meter | None = None
    _is_known: anyio.Event = field(default_factory=anyio.Event)

    async def fetch_first(self) -> None:
        """Fetch the first segment, and then as many as there are."""
        try:
            await self._fetch()
        finally:
            self._is_known.set()

        while await self._fetch():
            pass

    async def fetch_rest(self) -> None:
        """Fetch segments as long as there are any, once it is known that the server has them."""
        await self._is_known.wait()
        while not self.plan.is_for_one and await self._fetch():
            pass

    async def _fetch(self) -> bool:
        """Fetch the next segment, in several tries if need be; False where there is none."""
        attempts = self.streams.source.attempts(f"{self.label}: blob {self.streams.blob.digest.short}")
        segment: Segment | None = None
        tries = 0

        async def attempt() -> None:
            nonlocal segment, tries
            async with self.slots:
                self.begins()
                # Only now: whoever gets a slot first goes on where the others are.
                segment = segment or await self._next()
                if segment is not None:
                    tries += 1
                    await self._receive(segment, attempts, again=tries > 1)

        await attempts.run(attempt)
        if segment is not None:
            await segment.flush()

        return segment is not None

    async def _next(self) -> Segment | None:
        stretch = self.plan.claim()
        return None if stretch is None else await self.segments.segment(*stretch)

    async def _receive(self, segment: Segment, attempts: Attempts, *, again: bool) -> None:
        began, fresh, asked = segment.offset, attempts.is_refetch, time.monotonic()
        try:
            with await self.streams.open_segment(segment.offset, segment.end, again=again, fresh=fresh) as stream:
                if stream.is_whole:
                    await self._receive_whole(stream)
                else:
                    self._found_out(time.monotonic() - asked)
                    await segment.receive(self.streams.chunks(stream, self._shown()))
        except RangeRefused as error:
            raise error.replace(scope=Scope.IMAGE) from None  # another attempt would get the same answer
        finally:
            if segment.offset - began >= PROGRESS_BYTES:
                attempts.progress()

    def _found_out(self, seconds: float) -> None:
        """Note that the server sends segments, the first of which it began to send after so many `seconds`."""
        if not self._is_known.is_set():
            self.plan.is_for_one = seconds < _FAR_SECONDS
            self._is_known.set()

    async def _receive_whole(self, stream: BlobStream) -> None:
        """Take everything, as it comes already; what breaks off is received in order from there."""
        if self._is_known.is_set():
            raise RangeRefused(f"{self.streams.blob.digest}: the server sends everything instead of a segment")

        self.plan.stop()
        if self.sink.offset:
            await self.sink.reset()

        with suppress(TransportError):
            await self.sink.receive(self.streams.chunks(stream, self._shown()))

    def _shown(self) -> Meter:
        """Return the one meter of all segments, from the first on that has a slot."""
        if self._meter is None:
            blob = self.streams.blob
            self._meter = self.shown.enter_context(self.meters.transfer(self.label, blob.digest, blob.size))
            self._meter.done = blob.size - self.missing

        return self._meter
