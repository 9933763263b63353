"""The upload of one blob to a registry: hashed as it passes, and resumed after a failure of either side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ContentError, DigestMismatch, QuaymirrorError, ReadInterrupted, ServiceError, SizeMismatch
from ..oci import Descriptor, Repository
from ..registry.push import RegistryPusher, Upload, UploadLost

if TYPE_CHECKING:
    from hashlib import _Hash

# Smaller blobs are verified before their first byte is sent, and sent again without being fetched again.
_SMALL_BYTES = 1024 * 1024
# The distance of the positions whose hash is kept, to resume from: at most this much is fetched again needlessly.
_MARK_BYTES = 4 * 1024 * 1024
# The largest body that nginx accepts by default.
_CHUNK_BYTES = 1024 * 1024


@dataclass(slots=True)
class UploadMode:
    """The way in which a registry accepts blobs, learned once: in one request each, or in chunks."""

    is_chunked: bool = False


class UploadSink:
    """The sink of one blob in a registry; it continues `upload` if a refused mount has begun one.

    The last bytes are held back until the digest of all of them is right, so that a wrong blob is never finished.
    """

    def __init__(
        self,
        registry: RegistryPusher,
        repository: Repository,
        blob: Descriptor,
        mode: UploadMode,
        *,
        upload: Upload | None = None,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._mode = mode
        self._upload = upload
        self._is_small = blob.size <= _SMALL_BYTES
        self._held = bytearray()
        self._marks = [(0, blob.digest.hasher())]
        self._hasher: _Hash = blob.digest.hasher()
        self._sent = 0
        self._is_uncertain = False
        self.offset: int = 0
        """The number of bytes received, from the start."""
        self.committed: bool = False
        """True if the registry has the blob."""

    async def prepare(self) -> None:
        """Find out where to continue after a failure.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        if self._is_uncertain:
            await self._find_out()

        if self._upload is None and not self.committed and not self._is_small:
            self._upload = await self._registry.begin(self._repository)

    def segments(self) -> None:
        """Return None: a registry takes the bytes of a blob in order."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass on `chunks`, which begin at `offset`.

        :raises SizeMismatch, DigestMismatch: if they are not the blob; everything is dropped.
        :raises ReadInterrupted: if they end too early.
        :raises QuaymirrorError: if the source or the registry fails.
        """
        try:
            if self._is_small:
                async for chunk in self._verified(chunks):
                    self._held += chunk
            elif self._mode.is_chunked:
                await self._send_chunks(chunks)
            else:
                await self._send_stream(chunks)
        except (ContentError, UploadLost):
            await self.reset()
            raise

    async def reset(self) -> None:
        """Discard everything written so far, on both sides."""
        await self.give_up()
        self._rewind(0)

    async def commit(self) -> None:
        """Finish the upload, unless the last request has done that.

        :raises ReadInterrupted: if bytes are missing.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        if self.committed:
            return

        self._check_complete()
        if self._upload is None:
            self._upload = await self._registry.begin(self._repository)

        self._is_uncertain = True
        await self._registry.finish(self._upload, self._blob.digest, bytes(self._held), length=len(self._held))
        self._set_committed()

    async def give_up(self) -> None:
        """Cancel the upload, so that the registry keeps nothing of it."""
        upload, self._upload = self._upload, None
        self._is_uncertain = False
        if upload is not None:
            await self._registry.cancel(upload)

    def _set_committed(self) -> None:
        self.committed, self._is_uncertain, self._upload = True, False, None

    def _check_complete(self) -> None:
        if self.offset < self._blob.size:
            raise ReadInterrupted(f"{self._blob.digest}: got {self.offset:,} of {self._blob.size:,} bytes")

    async def _find_out(self) -> None:
        """Ask the registry for the effect of a request that had no answer."""
        if await self._registry.has_blob(self._repository, self._blob):
            self._set_committed()
            self.offset = self._blob.size
            return

        try:
            arrived = 0 if self._upload is None or self._is_small else await self._registry.offset(self._upload)
        except UploadLost:
            arrived, self._upload = 0, None

        # A registry that claims to have more than was sent can't be resumed.
        if not 0 < arrived <= self.offset:
            arrived = 0
            await self.give_up()

        self._is_uncertain = False
        if not self._is_small:
            self._rewind(arrived)

    def _rewind(self, sent: int) -> None:
        """Go back to the last position with a known hash from which on the bytes after the first `sent` are needed."""
        while self._marks[-1][0] > sent:
            self._marks.pop()

        self.offset, hasher = self._marks[-1]
        self._hasher = hasher.copy()
        self._sent = sent
        self._held.clear()

    async def _verified(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the bytes that the registry lacks, the last of them only if the digest is right."""
        blob = self._blob
        async for chunk in chunks:
            known = max(0, self._sent - self.offset)
            self.offset += len(chunk)
            if self.offset > blob.size:
                raise SizeMismatch(f"{blob.digest}: more than the {blob.size:,} bytes announced")

            self._hasher.update(chunk)
            if self.offset - self._marks[-1][0] >= _MARK_BYTES:
                self._marks.append((self.offset, self._hasher.copy()))

            if self.offset == blob.size and self._hasher.hexdigest() != blob.digest.encoded:
                raise DigestMismatch(f"{blob.digest}: received other bytes of the right number")

            if known < len(chunk):
                yield chunk[known:] if known else chunk

        self._check_complete()

    async def _send_stream(self, chunks: AsyncIterator[bytes]) -> None:
        assert self._upload is not None
        body = _Body(self._verified(chunks))
        start, self._is_uncertain = self._sent, True
        length = self._blob.size - start
        try:
            if start:
                # With its range, so that a registry that counts differently rejects it.
                self._sent = await self._registry.append(self._upload, body, start=start, length=length)
                self._is_uncertain = self._sent != self._blob.size
            else:
                await self._registry.finish(self._upload, self._blob.digest, body, length=length)
                self._set_committed()
        except QuaymirrorError as error:
            # The request fails if its body does: then that is the reason.
            if body.error is not None:
                raise body.error from None

            if isinstance(error, ServiceError) and error.status == 413:
                self._mode.is_chunked = True
                raise UploadLost(f"{error.message}; sending it in chunks") from None

            raise

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        assert self._upload is not None
        size = max(_CHUNK_BYTES, self._upload.least)
        waiting = bytearray()
        async for chunk in self._verified(chunks):
            waiting += chunk
            while len(waiting) > size:
                await self._send_chunk(bytes(waiting[:size]))
                del waiting[:size]

        if waiting:
            await self._send_chunk(bytes(waiting))

    async def _send_chunk(self, chunk: bytes) -> None:
        assert self._upload is not None
        start, self._is_uncertain = self._sent, True
        self._sent = await self._registry.append(self._upload, chunk, start=start, length=len(chunk))
        if self._sent != start + len(chunk):
            raise UploadLost(f"{self._blob.digest}: the target has {self._sent:,} bytes of it, not the number sent")

        self._is_uncertain = False


class _Body:
    """The body of a request, and the error that ended it, since HTTP can't carry it."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: QuaymirrorError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except QuaymirrorError as error:
            self.error = error
            raise
