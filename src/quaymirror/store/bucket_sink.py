"""The sinks of blobs in an object store: nothing becomes visible before its digest was found to be right."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable

import anyio.to_thread

from ..budget import Budget
from ..errors import DigestMismatch, ReadInterrupted, SizeMismatch
from ..oci import Descriptor
from .objects import Objects, Upload

# A blob up to this size is one request, which carries the digest as the hash of its content.
SMALL_BYTES = 8 * 1024 * 1024
_PART_BYTES = 8 * 1024 * 1024
# Stores take 10,000 parts at most.
_MOST_PARTS = 9_000
_MOST_CONCURRENCY = 4
_BATCH_BYTES = 1024 * 1024
BUDGET_BYTES: int = 80 * 1024 * 1024
"""The bytes that all transfers of a process to object stores together may hold in memory."""


class BucketSink:
    """The sink of one blob; see `BlobSink`. `ready` is called in a thread before the blob becomes visible."""

    def __init__(self, objects: Objects, key: str, node: Descriptor, budget: Budget, ready: Callable[[], None]) -> None:
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
        self._budget = budget
        self._ready = ready
        self._reserved = 0
        self._concurrency = 1
        self._is_small = node.size <= SMALL_BYTES
        # Of a small blob all bytes, of its exact size: a buffer that grows takes more.
        self._small = bytearray()
        self._filled = 0
        self._waiting = bytearray()
        self._written = 0
        self._hasher = node.digest.hasher()
        self._upload: Upload | None = None
        self._part = max(_PART_BYTES, -(-node.size // _MOST_PARTS))

    @property
    def offset(self) -> int:
        """The number of bytes received."""
        return self._filled if self._is_small else self._written + len(self._waiting)

    async def prepare(self) -> None:
        """Wait until the bytes in memory fit into the budget of all transfers."""
        if self._reserved:
            return

        if self._is_small:
            self._reserved = await self._budget.reserve(max(1, self._node.size))
            return

        # One part is collected while another one is sent.
        self._reserved = await self._budget.reserve(2 * self._part + _BATCH_BYTES)
        while self._concurrency < _MOST_CONCURRENCY and (more := self._budget.try_more(self._part)):
            self._reserved += more
            self._concurrency += 1

    def threaded(self) -> None:
        """Return None: the bytes pass through the event loop."""

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
            admit, self.admit = self.admit, None
            await anyio.to_thread.run_sync(admit)

        if self.offset + len(chunk) > self._node.size:
            await self.reset()
            raise SizeMismatch(f"{self._node.digest}: more than the {self._node.size:,} bytes announced")

        if self._is_small:
            self._small = self._small or bytearray(self._node.size)
            self._small[self._filled : self._filled + len(chunk)] = chunk
            self._filled += len(chunk)
            return

        self._waiting += chunk
        if len(self._waiting) >= _BATCH_BYTES:
            await self._send()

    async def reset(self) -> None:
        """Discard everything; the parts of an upload are deleted."""
        upload, self._upload = self._upload, None
        self._waiting.clear()
        self._filled = 0
        self._written, self._hasher = 0, self._node.digest.hasher()
        if upload is not None:
            await upload.abort()

    async def commit(self) -> None:
        """Verify the bytes, and make the blob visible; see `Sink.commit`."""
        if self.offset < self._node.size:
            raise ReadInterrupted(f"{self._node.digest}: got {self.offset:,} of {self._node.size:,} bytes")

        if self._waiting:
            await self._send()

        if not await anyio.to_thread.run_sync(self._is_right):
            await self.reset()
            raise DigestMismatch(f"{self._node.digest}: the bytes have another digest")

        if self._is_small:
            self.content = bytes(self._small) if self._node.is_manifest else None
            self.tag = await self._objects.upload(self._key, self._small)
        elif self._upload is not None:
            await self._upload.complete()
            self._upload = None

        self.committed = True

    def _is_right(self) -> bool:
        """Verify the bytes, in a thread, and prepare the storage if they are right."""
        if self._is_small:
            self._hasher.update(self._small)

        is_right = self._hasher.hexdigest() == self._node.digest.encoded
        if is_right:
            self._ready()

        return is_right

    async def close(self) -> None:
        """Discard the bytes of a blob that was not committed, and free the budget."""
        try:
            if self._upload is not None:
                await self.reset()
        finally:
            self._budget.release(self._reserved)
            self._reserved = 0

    async def _send(self) -> None:
        """Hash and upload the collected bytes. If that fails, the blob starts again."""
        if self._upload is None:
            await anyio.to_thread.run_sync(self._ready)
            self._upload = self._objects.writer(self._key, self._part, self._concurrency)

        batch, self._waiting = self._waiting, bytearray()
        self._written += len(batch)
        try:
            await _hash(self._hasher.update, batch)
            await self._upload.write(batch)
        except BaseException:
            await self.reset()
            raise


async def _hash(update: Callable[[bytes | bytearray], None], content: bytes | bytearray) -> None:
    if len(content) < _BATCH_BYTES // 4:
        update(content)
    else:
        await anyio.to_thread.run_sync(functools.partial(update, content))
