"""Local copies of blobs on their way to a registry, so that the source sends each byte once."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio.to_thread

from ..errors import StoreError
from ..store import fsops

# A switch to a thread costs as much as writing several chunks.
_BATCH_BYTES = 512 * 1024
_READ_BYTES = 1024 * 1024


class SpoolSpace:
    """The space for the spools of one target: at most half of the free bytes of `directory` at first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._left: int | None = None

    def open(self, size: int) -> Spool | None:
        """Return a spool for `size` bytes, None if there is no space for them."""
        try:
            if self._left is None:
                self._left = fsops.free_bytes(self.directory)[0] // 2

            if size > self._left:
                return None

            spool = Spool(self, size, fsops.open_unnamed(self.directory))
        except StoreError:
            return None

        self._left -= size
        return spool

    def disable(self) -> None:
        """Open no more spools: the disk fails."""
        self._left = 0

    def give_back(self, size: int) -> None:
        """Take back the space of a spool that was closed."""
        if self._left:
            self._left += size


class Spool:
    """The bytes of one blob from its start, in a file without a name. It disappears with the process.

    A task that writes or reads may be cancelled while its thread goes on: bytes are kept until they are written, and
    the file is closed under a lock.
    """

    def __init__(self, space: SpoolSpace, size: int, descriptor: int) -> None:
        self._space = space
        self._size = size
        self._descriptor: int | None = descriptor
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._written = 0

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        :raises StoreError: if the disk fails; the spool is of no use any more.
        """
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= _BATCH_BYTES:
            await self._flush()

    async def read(self, start: int) -> AsyncIterator[bytes]:
        """Iterate over the bytes from `start` on.

        :raises StoreError: if the disk fails.
        """
        await self._flush()
        while start < self._written:
            chunk = await anyio.to_thread.run_sync(self._read_at, start)
            yield chunk
            start += len(chunk)

    def close(self) -> None:
        """Remove the file."""
        self._space.give_back(self._size)
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    async def _flush(self) -> None:
        if self._waiting:
            await anyio.to_thread.run_sync(self._write_at, tuple(self._waiting), self._written)
            self._written += self._waiting_bytes
            self._waiting.clear()
            self._waiting_bytes = 0

    def _write_at(self, chunks: Sequence[bytes], start: int) -> None:
        with self._lock:
            if self._descriptor is not None:
                fsops.write_all(self._descriptor, chunks, self._space.directory, offset=start)

    def _read_at(self, start: int) -> bytes:
        with self._lock:
            assert self._descriptor is not None
            length = min(_READ_BYTES, self._written - start)
            return fsops.read_at(self._descriptor, length, start, self._space.directory)
