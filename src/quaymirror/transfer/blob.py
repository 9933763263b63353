"""One blob, from a registry into a sink, through whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

import anyio

from ..errors import TimedOut
from ..events import Meter, Meters
from ..net.client import Validator
from ..oci import Descriptor, Repository
from ..registry.pull import BlobStream, RangeRefused, RemoteSource
from .target import Sink

# A connection that dies after less than this has achieved nothing: else each single byte would renew the patience.
_PROGRESS_BYTES = 1024 * 1024
# Slower than this for this long is a server that holds us up, not a slow link.
_SLOW_BYTES_PER_SECOND = 1024
_SLOW_SECONDS = 60.0


async def fetch_blob(
    blob: Descriptor,
    *,
    repository: Repository,
    source: RemoteSource,
    sink: Sink,
    slots: anyio.CapacityLimiter,
    meters: Meters,
    label: str,
) -> None:
    """Write `blob` of `repository` to `sink`, verified, resuming what breaks off; a slot is held only while bytes flow.

    :raises NotFound, AccessDenied: when the repository does not have it for us.
    :raises DigestMismatch, SizeMismatch: when the registry keeps sending other bytes.
    :raises TransportError: when it can't be had.
    :raises StoreError: when the sink's disk refuses.
    """
    attempts = source.attempts(f"{label}: blob {blob.digest.short}")
    achieved, same = sink.offset, _Same()

    async def attempt() -> None:
        nonlocal achieved
        await sink.ready()
        try:
            async with slots:
                with meters.transfer(label, blob.digest, blob.size) as meter:
                    opening = partial(source.open, repository, blob, fresh=attempts.is_refetch)
                    await _receive(blob, opening, sink, meters, meter, same)
        finally:
            if sink.offset - achieved >= _PROGRESS_BYTES:
                achieved = sink.offset
                attempts.progress()

        await sink.commit()

    await attempts.run(attempt)


async def _receive(
    blob: Descriptor,
    opening: Callable[..., AbstractAsyncContextManager[BlobStream]],
    sink: Sink,
    meters: Meters,
    meter: Meter,
    same: _Same,
) -> None:
    meter.done = sink.offset
    if 0 < sink.offset == blob.size:
        return  # all of it is there from an earlier run, only not verified

    watch = _Watch(str(blob.digest))
    try:
        async with opening(offset=sink.offset, if_range=same.validator) as stream:
            same.answered(stream, asked=sink.offset)
            if stream.offset != sink.offset:
                await sink.restart()
                await sink.ready()

            meter.done = sink.offset

            await sink.receive(_counted(stream, meters, meter, watch))
    except RangeRefused:
        await sink.restart()
        raise


async def _counted(stream: BlobStream, meters: Meters, meter: Meter, watch: _Watch) -> AsyncIterator[bytes]:
    async for chunk in stream.chunks():
        meters.fetched_bytes += len(chunk)
        yield chunk
        meter.done += len(chunk)
        watch.received(len(chunk), held=stream.response.held)


@dataclass(slots=True)
class _Same:
    """What the server called the bytes it sent, so that it does not go on with others.

    What has a digest never changes: a server that says it did names its bytes at random (behind one address there may
    be several), and would start over for ever. It is not asked that way again.
    """

    validator: Validator | None = None
    is_of_use: bool = True

    def answered(self, stream: BlobStream, *, asked: int) -> None:
        """Take note of an answer to a request for the bytes from `asked` on."""
        if self.validator is not None and stream.offset != asked:
            self.is_of_use = False

        self.validator = stream.validator if self.is_of_use else None


class _Watch:
    """Notices a body that trickles: it keeps the stall timeout from firing for ever."""

    def __init__(self, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._since = clock()
        self._bytes = 0

    def received(self, count: int, *, held: float) -> None:
        """Count bytes; `held` is for how many seconds in all it was we who didn't read."""
        self._bytes += count
        elapsed = self._clock() - self._since - held
        if elapsed < _SLOW_SECONDS:
            return

        if self._bytes < _SLOW_BYTES_PER_SECOND * elapsed:
            raise TimedOut(f"{self._what}: only {self._bytes:,} bytes in {elapsed:.0f} s")

        self._since, self._bytes = self._clock() - held, 0
