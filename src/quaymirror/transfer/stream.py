"""The bytes of one blob as they come from its registry: what all requests for them have in common."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from ..errors import TimedOut
from ..http.exchange import Validator
from ..oci import Descriptor, Repository
from ..progress.meters import Meter, Meters
from ..registry.pull import BlobStream, RegistryPuller

# A connection that dies after less than this has achieved nothing: else each single byte would renew the patience.
PROGRESS_BYTES = 1024 * 1024
# Slower than this for this long is a server that holds us up, not a slow link.
_SLOW_BYTES_PER_SECOND = 1024
_SLOW_SECONDS = 60.0


class Streams:
    """Opens streams of `blob`, and remembers what the server said of it.

    What has a digest never changes: a server that calls it another way each time names its bytes at random (behind one
    address there may be several), and would start over for ever. It is not asked that way again.
    """

    def __init__(self, source: RegistryPuller, repository: Repository, blob: Descriptor, meters: Meters) -> None:
        self.source = source
        self.blob = blob
        self._repository = repository
        self._meters = meters
        self._validator: Validator | None = None
        self._is_validator_of_use = True
        self._location = ""

    async def open(self, offset: int, *, fresh: bool) -> BlobStream:
        """Open the stream from `offset` to the end; what comes may start at 0, see `RegistryPuller.open`."""
        stream = await self.source.open(
            self._repository, self.blob, offset=offset, fresh=fresh, if_range=self._validator if offset else None
        )
        self._answered(stream, offset)
        return stream

    async def open_segment(self, start: int, end: int, *, again: bool, fresh: bool) -> BlobStream:
        """Open the stream of the bytes from `start` to `end`; all may come instead, see `BlobStream.is_whole`.

        Where the registry redirected to before is asked directly, unless that failed and this is to be tried `again`.
        """
        stream = await self.source.open(
            self._repository,
            self.blob,
            offset=start,
            end=end,
            fresh=fresh,
            location="" if again else self._location,
        )
        self._location = stream.location
        return stream

    async def chunks(self, stream: BlobStream, meter: Meter) -> AsyncIterator[bytes]:
        """Iterate over the bytes of `stream`, counted; a body that trickles is an error.

        :raises TransportError: as `Response.chunks`.
        """
        watch = _Watch(str(self.blob.digest))
        async for chunk in stream.chunks():
            self._meters.fetched_bytes += len(chunk)
            yield chunk
            meter.done += len(chunk)
            watch.received(len(chunk), held=stream.response.held)

    def _answered(self, stream: BlobStream, asked: int) -> None:
        if self._validator is not None and stream.offset != asked:
            self._is_validator_of_use = False

        self._validator = stream.validator if self._is_validator_of_use else None


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
