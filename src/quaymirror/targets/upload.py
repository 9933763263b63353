"""The upload of one blob to a registry: hashed and spooled as it passes, and resumed after a failure of either side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ..errors import (
    ContentError,
    DigestMismatch,
    QuaymirrorError,
    ReadInterrupted,
    Scope,
    ServiceError,
    Side,
    SizeMismatch,
    StoreError,
)
from ..oci import Descriptor, Repository
from ..registry.push import RegistryPusher, Upload
from ..registry.refusals import UploadLost
from ..values import dataclass
from .spool import Spool, SpoolSpace

if TYPE_CHECKING:
    from hashlib import _Hash

# Smaller blobs are verified before their first byte is sent, and sent again without being fetched again.
_SMALL_BYTES = 1024 * 1024
# The largest body that nginx accepts by default.
_CHUNK_BYTES = 1024 * 1024


@dataclass(slots=True)
class UploadMode:
    """The way in which a registry accepts blobs, learned once, and the space for blobs that may be sent again."""

    spools: SpoolSpace
    is_chunked: bool = False
    """True if blobs are sent in chunks, because the registry refuses large bodies."""
    can_append: bool = True
    """False if the registry does not continue an upload that broke."""


class UploadSink:
    """The sink of one blob in a registry; it continues `upload` if a refused mount has begun one.

    A large blob is sent while it is received. It is spooled as well: if either side fails, the rest is received first,
    and then sent from the spool, from where the registry says that it can continue. The last bytes are held back until
    the digest of all of them is right, so that a wrong blob is never finished.
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
        self._spool: Spool | None = None
        self._hasher: _Hash = blob.digest.hasher()
        self._sent = 0
        self._is_uncertain = False
        self._is_live = True
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

        if self._is_small or self.committed:
            return

        if self._is_live and self._spool is None:
            self._spool = self._mode.spools.open(self._blob.size)

        if self._upload is None and (self._is_live or self._spool is None):
            self._upload = await self._registry.begin(self._repository)

    def threaded(self) -> None:
        """Return None: the bytes pass through the event loop."""

    def segments(self) -> None:
        """Return None: a registry takes the bytes of a blob in order."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass on `chunks`, which begin at `offset`.

        :raises SizeMismatch, DigestMismatch: if they are not the blob; everything is dropped.
        :raises ReadInterrupted: if they end too early.
        :raises QuaymirrorError: if the source or the registry fails.
        """
        is_live, self._is_live = self._is_live, False
        try:
            if self._is_small:
                async for chunk in self._verified(chunks):
                    self._held += chunk
            elif self._spool is not None and not is_live:
                async for _ in self._verified(chunks):
                    pass
            else:
                await self._send(self._verified(chunks), self._blob.size - self._sent)
        except ContentError as error:
            if error.side is Side.SOURCE:
                await self.reset()

            raise

    async def reset(self) -> None:
        """Discard everything written so far, on both sides."""
        await self.give_up()
        self._drop()

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
            self._sent = 0

        if self._spool is not None and self._sent < self._blob.size:
            await self._send(self._spool.read(self._sent), self._blob.size - self._sent)

        if not self.committed:
            await self._finish(bytes(self._held))

    async def give_up(self) -> None:
        """Cancel the upload, so that the registry keeps nothing of it."""
        upload, self._upload = self._upload, None
        self._is_uncertain = False
        self._sent = 0
        if upload is not None:
            await self._registry.cancel(upload)

    async def close(self) -> None:
        """Cancel the upload unless it is finished, and drop the spool."""
        self._close_spool()
        if not self.committed:
            await self.give_up()

    def _set_committed(self) -> None:
        self.committed, self._is_uncertain, self._upload = True, False, None

    def _check_complete(self) -> None:
        if self.offset < self._blob.size:
            raise ReadInterrupted(f"{self._blob.digest}: got {self.offset:,} of {self._blob.size:,} bytes")

    def _close_spool(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()

    def _end_spool(self) -> None:
        """Go on without spools: a failure then costs another transfer from the source."""
        self._mode.spools.disable()
        self._close_spool()

    async def _lose(self) -> None:
        """Begin again at the registry; without a spool at the source as well."""
        await self.give_up()
        if self._spool is None and not self._is_small:
            self._drop()

    def _drop(self) -> None:
        """Forget the bytes received so far."""
        self._hasher, self.offset = self._blob.digest.hasher(), 0
        self._held.clear()
        self._is_live = True
        self._close_spool()

    async def _find_out(self) -> None:
        """Ask the registry for the effect of a request that had no usable answer."""
        if await self._registry.has_blob(self._repository, self._blob):
            self._set_committed()
            self.offset = self._blob.size
            return

        try:
            can_ask = self._upload is not None and not self._is_small and self._mode.can_append
            arrived = await self._registry.offset(self._upload) if self._upload is not None and can_ask else 0
        except UploadLost:
            arrived, self._upload = 0, None

        # Without a spool only an upload that has every byte can go on. One that has more than was sent can't.
        least = 1 if self._spool is not None else self.offset or 1
        if least <= arrived <= self.offset:
            self._sent, self._is_uncertain = arrived, False
            return

        await self._lose()

    async def _verified(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the bytes that the registry lacks, the last of them only if the digest is right."""
        blob = self._blob
        async for chunk in chunks:
            self.offset += len(chunk)
            if self.offset > blob.size:
                raise SizeMismatch(f"{blob.digest}: more than the {blob.size:,} bytes announced")

            self._hasher.update(chunk)
            if self._spool is not None:
                await self._keep(chunk)

            if self.offset == blob.size and self._hasher.hexdigest() != blob.digest.encoded:
                raise DigestMismatch(f"{blob.digest}: received other bytes of the right number")

            yield chunk

        self._check_complete()

    async def _keep(self, chunk: bytes) -> None:
        assert self._spool is not None
        try:
            await self._spool.write(chunk)
        except StoreError as error:
            self._end_spool()
            if self._upload is None:
                raise UploadLost(error.message) from None

    async def _send(self, content: AsyncIterator[bytes], length: int) -> None:
        """Send the bytes that the registry lacks."""
        self._is_uncertain = True
        body = _Body(content)
        is_chunked = self._mode.is_chunked
        try:
            if is_chunked:
                await self._send_chunks(body)
            else:
                await self._send_stream(body, length)
        except UploadLost:
            await self._lose()
            raise
        except QuaymirrorError as error:
            # The request fails if its body does: then that is the reason.
            if isinstance(body.error, StoreError):
                self._end_spool()
                await self._lose()
                raise UploadLost(body.error.message) from None

            if body.error is not None:
                raise body.error from None

            if isinstance(error, ServiceError) and error.scope is Scope.IMAGE:
                await self._adapt(error, is_chunked=is_chunked)

            raise

    async def _adapt(self, error: ServiceError, *, is_chunked: bool) -> None:
        """Send the blob in another way if the registry may have refused the way, not the blob.

        Another upload may have changed the mode in the meantime: `is_chunked` is the one of this upload.

        :raises UploadLost: if there is another way.
        """
        if error.status == 413 and not is_chunked:
            self._mode.is_chunked = True
        elif self._sent and self._mode.can_append and not is_chunked:
            self._mode.can_append = False
        else:
            return

        await self._lose()
        raise UploadLost(f"{error.message}; sending it in another way")

    async def _send_stream(self, body: _Body, length: int) -> None:
        assert self._upload is not None
        if self._sent:
            # With its range, so that a registry that counts differently rejects it.
            self._sent = await self._registry.append(self._upload, body, start=self._sent, length=length)
            if self._sent != self._blob.size:
                raise UploadLost(f"{self._blob.digest}: the target has {self._sent:,} bytes of it, not the number sent")

            await self._finish(b"")
        else:
            await self._registry.finish(self._upload, self._blob, body, length=length)
            self._set_committed()

    async def _finish(self, content: bytes) -> None:
        assert self._upload is not None
        self._is_uncertain = True
        await self._registry.finish(self._upload, self._blob, content, length=len(content))
        self._set_committed()

    async def _send_chunks(self, body: _Body) -> None:
        assert self._upload is not None
        size = max(_CHUNK_BYTES, self._upload.least)
        waiting = bytearray()
        async for chunk in body:
            waiting += chunk
            while len(waiting) > size:
                await self._send_chunk(bytes(waiting[:size]))
                del waiting[:size]

        if waiting:
            await self._send_chunk(bytes(waiting))

    async def _send_chunk(self, chunk: bytes) -> None:
        assert self._upload is not None
        start = self._sent
        self._sent = await self._registry.append(self._upload, chunk, start=start, length=len(chunk))
        if self._sent != start + len(chunk):
            raise UploadLost(f"{self._blob.digest}: the target has {self._sent:,} bytes of it, not the number sent")


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
