"""One blob on its way into a registry: hashed as it passes, resumed where either side broke off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ContentError, DigestMismatch, QuaymirrorError, ReadInterrupted, ServiceError, SizeMismatch
from ..oci import Descriptor, Repository
from ..registry.push import RegistryPusher, Upload, UploadLost

if TYPE_CHECKING:
    from hashlib import _Hash

# What fits in here is verified before the first byte goes out, and sent as often as it takes without being fetched.
_SMALL_BYTES = 1024 * 1024
# How far apart the hash is remembered, to go on from there: what is fetched again for nothing is less.
_MARK_BYTES = 4 * 1024 * 1024
# What nginx takes if nobody tells it to take more.
_PIECE_BYTES = 1024 * 1024


@dataclass(slots=True)
class UploadMode:
    """How a registry wants its blobs, learned once: each in one request, or in pieces."""

    in_pieces: bool = False


class UploadSink:
    """Where one blob is written to in a registry; see `Sink`. It takes the upload that a refused mount began.

    The last bytes are held back until the digest of all of them is right: a wrong blob is never finished.
    """

    def __init__(
        self,
        registry: RegistryPusher,
        repository: Repository,
        blob: Descriptor,
        manner: UploadMode,
        *,
        upload: Upload | None = None,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._manner = manner
        self._upload = upload
        self._is_small = blob.size <= _SMALL_BYTES
        self._held = bytearray()
        self._marks = [(0, blob.digest.hasher())]
        self._hasher: _Hash = blob.digest.hasher()
        self._arrived = 0
        self._is_uncertain = False
        self.offset = 0
        """How many bytes have passed, from the start."""
        self.committed = False
        """Whether the blob has its name."""

    async def prepare(self) -> None:
        """Find out where an attempt has to begin, now that the one before broke off.

        :raises QuaymirrorError: when the registry gives no usable answer.
        """
        if self._is_uncertain:
            await self._find_out()

        if self._upload is None and not self.committed and not self._is_small:
            self._upload = await self._registry.begin(self._repository)

    def segments(self) -> None:
        """A registry takes the bytes of a blob in order only."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass on `chunks`, which begin at `offset`.

        :raises SizeMismatch, DigestMismatch: when they are not the blob; everything is dropped.
        :raises ReadInterrupted: when they end too early.
        :raises QuaymirrorError: what the source raised, or why the registry does not take them.
        """
        try:
            if self._is_small:
                async for chunk in self._checked(chunks):
                    self._held += chunk
            elif self._manner.in_pieces:
                await self._send_pieces(chunks)
            else:
                await self._send_stream(chunks)
        except (ContentError, UploadLost):
            await self.reset()
            raise

    async def reset(self) -> None:
        """Forget everything written so far, here and there."""
        await self.give_up()
        self._rewind(0)

    async def commit(self) -> None:
        """Give the blob its name, if the registry did not do that when it got the last byte.

        :raises ReadInterrupted: when bytes are missing.
        :raises QuaymirrorError: when the registry gives no usable answer.
        """
        if self.committed:
            return

        if self.offset < self._blob.size:
            raise ReadInterrupted(f"{self._blob.digest}: got {self.offset:,} of {self._blob.size:,} bytes")

        if self._upload is None:
            self._upload = await self._registry.begin(self._repository)

        self._is_uncertain = True
        await self._registry.finish(self._upload, self._blob.digest, bytes(self._held), length=len(self._held))
        self._is_committed()

    async def give_up(self) -> None:
        """Leave nothing half-done at the registry."""
        upload, self._upload = self._upload, None
        self._is_uncertain = False
        if upload is not None:
            await self._registry.cancel(upload)

    def _is_committed(self) -> None:
        self.committed = True
        self._is_uncertain = False
        self._upload = None

    async def _find_out(self) -> None:
        """A request had no answer: maybe it did all it should, or a part of that."""
        if await self._registry.has_blob(self._repository, self._blob):
            self._is_committed()
            self.offset = self._blob.size
            return

        try:
            arrived = 0 if self._upload is None or self._is_small else await self._registry.offset(self._upload)
        except UploadLost:
            arrived, self._upload = 0, None

        # It can't have more than we sent: a registry that counts like this can't be resumed.
        if arrived > self.offset or not arrived:
            await self.give_up()

        self._is_uncertain = False
        if not self._is_small:
            self._rewind(arrived if arrived <= self.offset else 0)

    def _rewind(self, arrived: int) -> None:
        """Go back to the last mark from which on the bytes are needed to go on after the first `arrived`."""
        while self._marks[-1][0] > arrived:
            self._marks.pop()

        self.offset, hasher = self._marks[-1]
        self._hasher = hasher.copy()
        self._arrived = arrived
        self._held.clear()

    async def _checked(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass on what the registry does not have yet, the last of it only if all of it has the right digest."""
        async for chunk in chunks:
            known = max(0, self._arrived - self.offset)
            self.offset += len(chunk)
            if self.offset > self._blob.size:
                raise SizeMismatch(f"{self._blob.digest}: more than the {self._blob.size:,} bytes announced")

            self._hasher.update(chunk)
            if self.offset - self._marks[-1][0] >= _MARK_BYTES:
                self._marks.append((self.offset, self._hasher.copy()))

            if self.offset == self._blob.size and self._hasher.hexdigest() != self._blob.digest.encoded:
                raise DigestMismatch(f"{self._blob.digest}: received other bytes of the right number")

            if known < len(chunk):
                yield chunk[known:] if known else chunk

        if self.offset < self._blob.size:
            raise ReadInterrupted(f"{self._blob.digest}: got {self.offset:,} of {self._blob.size:,} bytes")

    async def _send_stream(self, chunks: AsyncIterator[bytes]) -> None:
        assert self._upload is not None
        body = _Body(self._checked(chunks))
        start, self._is_uncertain = self._arrived, True
        length = self._blob.size - start
        try:
            if start:
                # The range is said, so that a registry that counts otherwise refuses it and does not join it wrongly.
                self._arrived = await self._registry.append(self._upload, body, start=start, length=length)
                self._is_uncertain = self._arrived != self._blob.size
            else:
                await self._registry.finish(self._upload, self._blob.digest, body, length=length)
                self._is_committed()
        except QuaymirrorError as error:
            # The request breaks when its body does: then that is the reason.
            if body.error is not None:
                raise body.error from None

            if isinstance(error, ServiceError) and error.status == 413:
                self._manner.in_pieces = True
                raise UploadLost(f"{error.message}; sending it in pieces") from None

            raise

    async def _send_pieces(self, chunks: AsyncIterator[bytes]) -> None:
        assert self._upload is not None
        size = max(_PIECE_BYTES, self._upload.least)
        waiting = bytearray()
        async for chunk in self._checked(chunks):
            waiting += chunk
            while len(waiting) > size:
                await self._send_piece(bytes(waiting[:size]))
                del waiting[:size]

        if waiting:
            await self._send_piece(bytes(waiting))

    async def _send_piece(self, piece: bytes) -> None:
        assert self._upload is not None
        start, self._is_uncertain = self._arrived, True
        self._arrived = await self._registry.append(self._upload, piece, start=start, length=len(piece))
        if self._arrived != start + len(piece):
            raise UploadLost(f"{self._blob.digest}: the target has {self._arrived:,} bytes of it, not what was sent")

        self._is_uncertain = False


class _Body:
    """The body of one request; the error that ended it, if one did, is kept: HTTP can't tell it."""

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
