"""The sinks of blobs in an object store: nothing becomes visible before its digest was found to be right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio.from_thread
import anyio.to_thread

from ..errors import DigestMismatch, ReadInterrupted, SizeMismatch
from ..http.bodies import Fill, Read
from ..oci import Descriptor
from .buffers import Buffer, BufferPool
from .objects import Objects, Upload

_PART_BYTES = 8 * 1024 * 1024
# A blob up to this size is one request, which carries the digest as the hash of its content: parts of it, one of which
# is collected while another one is sent, would take as much memory.
SMALL_BYTES = 2 * _PART_BYTES
# Stores take 10,000 parts at most.
_MOST_PARTS = 9_000
_MOST_CONCURRENCY = 4
# Parts that are sent at the same time leave this share of the budget to other blobs.
_SHARE_LEFT = 3
_BATCH_BYTES = 1024 * 1024
# So few that hashing finds them in the cache of the core that received them.
_HASHED_AT_ONCE = 128 * 1024
# Hashing as many bytes costs less than a call of a thread.
_HASHED_BY_LOOP = 64 * 1024
BUDGET_BYTES: int = 80 * 1024 * 1024
"""The bytes that all transfers of a process to object stores together may hold in memory."""


class BucketSink:
    """The sink of one blob; see `BlobSink`.

    `ready` is called in a thread before the blob becomes visible, unless `is_ready` returns True. The bytes are
    collected in a buffer: all of a small blob, one batch of a large one, which is uploaded in parts.
    """

    def __init__(
        self,
        objects: Objects,
        key: str,
        node: Descriptor,
        pool: BufferPool,
        *,
        ready: Callable[[], None],
        is_ready: Callable[[], bool],
    ) -> None:
        self.committed: bool = False
        """True if the blob is stored."""
        self.admit: Callable[[], None] | None = None
        """Called once before the first byte is written; its errors end the transfer."""
        self.tag: str = ""
        """The version tag of the stored blob, "" if it is not known."""
        self.content: bytes | None = None
        """The content of a manifest that was stored."""
        self._objects = objects
        self._key = key
        self._node = node
        self._pool = pool
        self._budget = pool.budget
        self._ready = ready
        self._is_ready = is_ready
        self._reserved = 0
        self._is_small = node.size <= SMALL_BYTES
        self._memory: Buffer = bytearray()
        self._buffer = memoryview(self._memory)
        self._filled = self._hashed = 0
        """The number of bytes in the buffer, and of those in it that are hashed."""
        self._sent = 0
        self._hasher = node.digest.hasher()
        self._upload: Upload | None = None
        self._part = max(_PART_BYTES, -(-node.size // _MOST_PARTS))

    @property
    def offset(self) -> int:
        """The number of bytes received."""
        return self._sent + self._filled

    async def prepare(self) -> None:
        """Wait until the bytes in memory fit into the budget of all transfers."""
        if not self._reserved:
            await self._reserve()

        # By this thread, to which the pool belongs.
        self._space()

    async def _reserve(self) -> None:
        if self._is_small:
            self._reserved = await self._budget.reserve(max(1, self._node.size))
            return

        # One part is collected while another one is sent.
        self._reserved = await self._budget.reserve(2 * self._part + _BATCH_BYTES)

    def _open_upload(self) -> Upload:
        """Begin an upload in parts, more of which are sent at a time if enough memory is left for other blobs."""
        concurrency, left = 1, self._budget.size // _SHARE_LEFT
        while concurrency < _MOST_CONCURRENCY and (more := self._budget.try_more(self._part, leaving=left)):
            self._reserved += more
            concurrency += 1

        return self._objects.writer(self._key, self._part, concurrency)

    def threaded(self) -> Fill:
        """Return the function by which a thread appends bytes."""
        return self.fill

    def fill(self, read: Read) -> None:
        """Append the bytes that `read` puts into the buffer; see `receive`. It blocks, in a thread of anyio."""
        self._admit()
        # After the last byte, another one is an error.
        while count := read(self._space() or memoryview(bytearray(1))):
            if self.offset == self._node.size:
                anyio.from_thread.run(self._refuse)

            self._filled += count
            if self._filled == len(self._buffer) or self._filled - self._hashed >= _HASHED_AT_ONCE:
                self._hash()

            if self._is_batch_full:
                anyio.from_thread.run(self._send)

    def segments(self) -> None:
        """Return None: bytes are sent in order."""
        return

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`; see `Sink.receive`."""
        async for chunk in chunks:
            await self.write(chunk)

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`; see `BlobSink.write`."""
        if not self._reserved:
            await self.prepare()

        if self.admit is not None:
            await anyio.to_thread.run_sync(self._admit)

        if self.offset + len(chunk) > self._node.size:
            await self._refuse()

        rest = memoryview(chunk)
        while rest:
            space = self._space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            self._filled += count
            if self._is_batch_full:
                await self._send()

    async def reset(self) -> None:
        """Discard everything; the parts of an upload are deleted."""
        upload, self._upload = self._upload, None
        self._filled = self._hashed = self._sent = 0
        self._hasher = self._node.digest.hasher()
        if upload is not None:
            await upload.abort()

    async def commit(self) -> None:
        """Verify the bytes, and make the blob visible; see `Sink.commit`."""
        if self.offset < self._node.size:
            raise ReadInterrupted(f"{self._node.digest}: got {self.offset:,} of {self._node.size:,} bytes")

        if self._filled and not self._is_small:
            await self._send()

        if not await self._verify():
            await self.reset()
            raise DigestMismatch(f"{self._node.digest}: the bytes have another digest")

        if self._is_small:
            self.content = bytes(self._buffer) if self._node.is_manifest else None
            self.tag = await self._objects.upload(self._key, self._buffer)
        elif self._upload is not None:
            await self._upload.complete()
            self._upload = None

        self.committed = True

    async def close(self) -> None:
        """Discard the bytes of a blob that was not committed, and free the budget."""
        try:
            if self._upload is not None:
                await self.reset()
        finally:
            self._budget.release(self._reserved)
            self._reserved = 0
            self._give_back()

    @property
    def _is_batch_full(self) -> bool:
        return not self._is_small and self._filled == len(self._buffer)

    def _admit(self) -> None:
        admit, self.admit = self.admit, None
        if admit is not None:
            admit()

    def _space(self) -> memoryview:
        """Return the free end of the buffer; empty once all bytes have arrived."""
        if not self._buffer:
            left = self._node.size - self._sent
            size = left if self._is_small else min(_BATCH_BYTES, left)
            self._memory = self._pool.take(size)
            self._buffer = memoryview(self._memory)[:size]

        return self._buffer[self._filled :]

    def _give_back(self) -> None:
        memory, self._memory = self._memory, bytearray()
        self._buffer = memoryview(self._memory)
        self._pool.give_back(memory)

    def _hash(self) -> None:
        self._hasher.update(self._buffer[self._hashed : self._filled])
        self._hashed = self._filled

    async def _verify(self) -> bool:
        """Return True if the bytes are right; the storage is prepared then."""
        if self._filled - self._hashed > _HASHED_BY_LOOP or not self._is_ready():
            return await anyio.to_thread.run_sync(self._is_right_and_ready)

        return self._is_right()

    def _is_right(self) -> bool:
        self._hash()
        return self._hasher.hexdigest() == self._node.digest.encoded

    def _is_right_and_ready(self) -> bool:
        is_right = self._is_right()
        if is_right:
            self._ready()

        return is_right

    async def _refuse(self) -> None:
        await self.reset()
        raise SizeMismatch(f"{self._node.digest}: more than the {self._node.size:,} bytes announced")

    async def _send(self) -> None:
        """Hash and upload the batch in the buffer. If that fails, the blob starts again."""
        try:
            if self._hashed < self._filled:
                await anyio.to_thread.run_sync(self._hash)

            if self._upload is None:
                if not self._is_ready():
                    await anyio.to_thread.run_sync(self._ready)

                self._upload = self._open_upload()

            batch = self._buffer[: self._filled]
            self._sent += self._filled
            self._filled = self._hashed = 0
            self._give_back()
            self._space()
            await self._upload.write(batch)
        except BaseException:
            await self.reset()
            raise
