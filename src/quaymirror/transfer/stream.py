"""The job to fetch one blob, and the progress that all requests for it share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

from ..errors.base import QuaymirrorError
from ..errors.content import ContentError
from ..errors.transport import RangeRefused, TimedOut
from ..http.validator import Validator
from ..oci.descriptor import Descriptor
from ..oci.reference import Repository
from ..progress.meters import Meter, Meters
from ..progress.speeds import SpeedWatch
from ..registry.source import BlobStream
from ..store.sink import Segment, Sink
from ..values import dataclass

# Retries start over after this many new bytes: if any byte counted, a server could prolong a transfer for ever.
PROGRESS_BYTES = 1024 * 1024
# Answers of 500 to a range after which the whole blob is requested.
_REFUSALS = 2
# A server may send less than was requested, but so little at a time would be requests without end.
_LEAST_PART_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class BlobJob:
    """A blob of `repository` to fetch: a message, so that it can be sent to another thread or process.

    `label` is its image in messages, `ticket` the number of the image's slot. If it `has_failed` from another
    repository, with all retries, this one is tried briefly: otherwise each of many images would take as long.
    """

    repository: Repository
    blob: Descriptor
    label: str
    ticket: int = 0
    has_failed: bool = False


class BlobProgress:
    """The received bytes of a blob, and the server's answers that matter for the next request.

    Content with a digest never changes. A server that gives it another validator each time (there may be several behind
    one address) would send it from the start for ever, so its validators are not used any more.
    """

    def __init__(self, job: BlobJob, meters: Meters) -> None:
        self.job = job
        self.repository: Repository = job.repository
        self.blob: Descriptor = job.blob
        self.title: str = f"{job.label}: blob {job.blob.digest.short}"
        """The name of the operation in messages."""
        self.achieved = 0
        """The offset at which retries started over."""
        self.validator: Validator | None = None
        """The validator for a request for the rest, None if the source gave none."""
        self.location = ""
        """The URL that the source redirected to."""
        self.is_slow: bool = False
        """True if the last body was given up since it came too slowly: then its bytes are no progress."""
        self._meters = meters
        self._trusts_validators = True
        self._refusals = 0
        self._distortion = ""

    @property
    def refuses_ranges(self) -> bool:
        """True if the source does not answer requests for a range: it has to send the whole blob."""
        return self._refusals >= _REFUSALS

    def range_failed(self, error: QuaymirrorError) -> bool:
        """Record the error of a request that may have had a range; return True if the whole blob is wanted now.

        Bytes that have arrived are kept until the source sends all of them.
        """
        if isinstance(error, RangeRefused):
            self._refusals = _REFUSALS
        elif error.status == 500:
            self._refusals += 1

        return self.refuses_ranges

    def is_part(self, stream: BlobStream, offset: int) -> bool:
        """Return True if `stream` ended at `offset` as it had announced, before the end of the request."""
        if not offset == stream.end < self.blob.size:
            return False

        if stream.end - stream.offset < _LEAST_PART_BYTES:
            self._refusals = _REFUSALS

        return not self.refuses_ranges

    def explained(self, error: QuaymirrorError) -> QuaymirrorError:
        """Return `error` with the reason if it is about wrong content, and a proxy seems to have sent or changed it."""
        is_about_content = self._distortion and isinstance(error, ContentError)
        return error.replace(f"{error.message}: {self._distortion}") if is_about_content else error

    @contextmanager
    def meter(self, done: int) -> Iterator[Meter]:
        """Show the transfer during the context, `done` bytes of which are there already."""
        with self._meters.transfer(self.job.label, self.blob.digest, self.blob.size) as meter:
            meter.done = done
            yield meter

    def answered(self, stream: BlobStream, offset: int) -> None:
        """Record the answer to a request for the bytes from `offset` on."""
        self._refusals = 0
        if self.validator is not None and stream.offset != offset:
            self._trusts_validators = False

        self.validator = stream.validator if self._trusts_validators else None

    async def receive(self, stream: BlobStream, sink: Sink | Segment, meter: Meter) -> None:
        """Pass the bytes of `stream` to `sink`, and count them. A thread does it if both sides support that.

        :raises TimedOut: if they come too slowly.
        :raises TransportError: if they end early.
        :raises QuaymirrorError: as `sink.receive`.
        """
        self.is_slow, self._distortion = False, stream.distortion
        receive, fill = stream.threaded, sink.threaded()
        with self._meters.speeds.watch(stream.host, str(self.blob.digest)) as watch:
            if receive is None or fill is None:
                await sink.receive(self._chunks(stream, meter, watch))
            else:
                await receive(fill, partial(self._fetched, meter, watch))

    async def _chunks(self, stream: BlobStream, meter: Meter, watch: SpeedWatch) -> AsyncIterator[bytes]:
        async for chunk in stream.chunks():
            self._meters.fetched_bytes += len(chunk)
            yield chunk
            self._count(meter, watch, stream.held, len(chunk))

    def _fetched(self, meter: Meter, watch: SpeedWatch, received: int) -> None:
        self._meters.fetched_bytes += received
        self._count(meter, watch, 0.0, received)

    def _count(self, meter: Meter, watch: SpeedWatch, held: float, received: int) -> None:
        meter.done += received
        if not watch.received(received, held=held):
            self.is_slow = True
            raise TimedOut(watch.complaint, retries=1)  # each of them takes a minute
