"""One blob, fetched from a source into a sink, with retries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors.base import QuaymirrorError
from ..errors.content import ContentError
from ..errors.transport import ReadInterrupted
from ..progress.meters import Meter
from ..registry.source import Attempts, BlobRequest, BlobSource, BlobStream
from ..store.sink import Sink
from .segments import fetch_segments
from .slots import FetchSlots
from .stream import PROGRESS_BYTES, BlobProgress


async def fetch_blob(progress: BlobProgress, source: BlobSource, sink: Sink, slots: FetchSlots) -> None:
    """Write the blob of `progress` to `sink`, verified. A slot is held only while bytes flow.

    A large blob is fetched in segments over several connections, if both sides support that; an interrupted transfer is
    resumed.

    :raises NotFound, AccessDenied: if the repository does not have the blob, or denies access.
    :raises DigestMismatch, SizeMismatch: if the source keeps sending wrong bytes.
    :raises TransportError: if it can't be fetched.
    :raises StoreError: if the disk fails.
    """
    blob = progress.blob
    attempts = source.attempts(progress.title, brief=progress.job.has_failed)
    await fetch_segments(source, sink, slots, progress)
    progress.achieved = sink.offset
    async for attempt in attempts:
        with attempt:
            await sink.prepare()
            # Otherwise all of it is present, only not verified.
            if sink.offset < blob.size or not blob.size:
                async with slots.blob(blob.digest, progress.job.ticket), _recovering(sink, progress, attempts):
                    with progress.meter(sink.offset) as meter:
                        location = ""
                        while True:  # a server may send less than the whole rest
                            offset = 0 if progress.refuses_ranges else sink.offset
                            request = BlobRequest(
                                progress.repository,
                                progress.blob,
                                offset=offset,
                                fresh=attempts.is_refetch,
                                if_range=progress.validator if offset else None,
                                location=location,
                                threaded=sink.threaded(),
                            )
                            stream = await source.open(request)
                            await _receive(stream, sink, progress, meter)
                            if sink.offset >= blob.size:
                                break

                            location = stream.location
                            await sink.prepare()

            try:
                await sink.commit()
            except ContentError as error:
                raise progress.explained(error) from None


@asynccontextmanager
async def _recovering(sink: Sink, progress: BlobProgress, attempts: Attempts) -> AsyncIterator[None]:
    """Request the whole blob if the source refuses to continue; forget failures if much has arrived."""
    try:
        yield
    except QuaymirrorError as error:
        progress.range_failed(error)
        raise progress.explained(error) from None
    finally:
        if sink.offset - progress.achieved >= PROGRESS_BYTES and not progress.is_slow:
            progress.achieved = sink.offset
            attempts.progress()


async def _receive(stream: BlobStream, sink: Sink, progress: BlobProgress, meter: Meter) -> None:
    with stream:
        progress.answered(stream, sink.offset)
        if stream.offset != sink.offset:
            await sink.reset()
            await sink.prepare()

        meter.done = sink.offset
        try:
            await progress.receive(stream, sink, meter)
        except ReadInterrupted:
            if not progress.is_part(stream, sink.offset):
                raise
