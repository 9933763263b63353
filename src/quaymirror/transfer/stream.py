"""The job to fetch one blob, and the progress that all requests for it share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from ..errors.transport import TimedOut
from ..http.validator import Validator
from ..oci.descriptor import Descriptor
from ..oci.reference import Repository
from ..progress.meters import Meter, Meters
from ..registry.source import BlobStream
from ..values import dataclass

# Retries start over after this many new bytes: if any byte counted, a server could prolong a transfer for ever.
PROGRESS_BYTES = 1024 * 1024
# A body that is slower for this long comes from a server that stalls, not over a slow link.
_SLOW_BYTES_PER_SECOND = 1024
_SLOW_SECONDS = 60.0


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
        self._meters = meters
        self._trusts_validators = True

    @contextmanager
    def meter(self, done: int) -> Iterator[Meter]:
        """Show the transfer during the context, `done` bytes of which are there already."""
        with self._meters.transfer(self.job.label, self.blob.digest, self.blob.size) as meter:
            meter.done = done
            yield meter

    def answered(self, stream: BlobStream, offset: int) -> None:
        """Record the answer to a request for the bytes from `offset` on."""
        if self.validator is not None and stream.offset != offset:
            self._trusts_validators = False

        self.validator = stream.validator if self._trusts_validators else None

    async def chunks(self, stream: BlobStream, meter: Meter) -> AsyncIterator[bytes]:
        """Iterate over the bytes of `stream` and count them.

        :raises TimedOut: if they come too slowly.
        :raises TransportError: if they end early.
        """
        watch = _SpeedWatch(str(self.blob.digest))
        async for chunk in stream.chunks():
            self._meters.fetched_bytes += len(chunk)
            yield chunk
            meter.done += len(chunk)
            watch.received(len(chunk), held=stream.held)


class _SpeedWatch:
    """Detects a body that trickles, and so never triggers the stall timeout."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._since = clock()
        self._bytes = 0

    def received(self, count: int, *, held: float) -> None:
        """Count bytes; `held` are the seconds in all that this side has waited before reading on."""
        self._bytes += count
        elapsed = self._clock() - self._since - held
        if elapsed < _SLOW_SECONDS:
            return

        if self._bytes < _SLOW_BYTES_PER_SECOND * elapsed:
            raise TimedOut(f"{self._name}: only {self._bytes:,} bytes in {elapsed:.0f} s")

        self._since, self._bytes = self._clock() - held, 0
