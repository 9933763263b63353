"""One blob, from a registry into a sink, through whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..errors import RangeRefused
from ..oci import Descriptor, Repository
from ..progress.meters import Meters
from ..registry.pull import RegistryPuller
from ..store.sink import Sink
from .segments import fetch_segments
from .stream import PROGRESS_BYTES, Streams


async def fetch_blob(
    blob: Descriptor,
    *,
    repository: Repository,
    source: RegistryPuller,
    sink: Sink,
    slots: anyio.CapacityLimiter,
    meters: Meters,
    label: str,
    begins: Callable[[], None] = lambda: None,
) -> None:
    """Write `blob` of `repository` to `sink`, verified, resuming what breaks off; a slot is held only while bytes flow.

    A large one comes in segments over several connections, if both sides support that. `begins` is called whenever it
    has got a slot.

    :raises NotFound, AccessDenied: when the repository does not have it for us.
    :raises DigestMismatch, SizeMismatch: when the registry keeps sending other bytes.
    :raises TransportError: when it can't be had.
    :raises StoreError: when the sink's disk refuses.
    """
    streams = Streams(source, repository, blob, meters)
    await fetch_segments(streams, sink, slots=slots, meters=meters, label=label, begins=begins)
    attempts = source.attempts(f"{label}: blob {blob.digest.short}")
    achieved = sink.offset

    async def attempt() -> None:
        nonlocal achieved
        await sink.prepare()
        # Else all of it is there, only not verified.
        if sink.offset < blob.size or not blob.size:
            try:
                async with slots:
                    begins()
                    await _receive(streams, sink, meters, label, fresh=attempts.is_refetch)
            finally:
                if sink.offset - achieved >= PROGRESS_BYTES:
                    achieved = sink.offset
                    attempts.progress()

        await sink.commit()

    await attempts.run(attempt)


async def _receive(streams: Streams, sink: Sink, meters: Meters, label: str, *, fresh: bool) -> None:
    """Receive what is missing, in order."""
    blob = streams.blob
    with meters.transfer(label, blob.digest, blob.size) as meter:
        meter.done = sink.offset
        try:
            with await streams.open(sink.offset, fresh=fresh) as stream:
                if stream.offset != sink.offset:
                    await sink.reset()
                    await sink.prepare()

                meter.done = sink.offset
                await sink.receive(streams.chunks(stream, meter))
        except RangeRefused:
            await sink.reset()
            raise
