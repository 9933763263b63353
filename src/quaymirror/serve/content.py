"""The bytes of content: small content from a cache, verified when it is read, and open files of large blobs."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import anyio
import anyio.to_thread

from ..errors import MirrorDamaged
from ..oci import Descriptor, Digest
from ..oci.manifest import MAX_MANIFEST_BYTES
from ..store.reader import LayoutReader
from ..store.storage import Storage, blob_key

SMALL_BYTES = 64 * 1024
_CACHE_BYTES = 64 * 1024 * 1024
_THREADS = 16


@dataclass(slots=True)
class OpenBlob:
    """The open file of a blob, which has the size that its manifest says."""

    file: BinaryIO
    size: int
    is_local: bool
    stack: ExitStack

    def close(self) -> None:
        """Close the file."""
        self.stack.close()


class ContentReader:
    """The content of one layout."""

    def __init__(self, storage: Storage, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._storage = storage
        self._reader = LayoutReader(storage)
        self._cache: OrderedDict[Digest, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._most = cache_bytes
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def read(self, node: Descriptor) -> bytes | None:
        """Return the content of a manifest or a small blob, None if it is missing.

        :raises MirrorDamaged: if it has other bytes than its digest says.
        :raises StoreError: if the storage fails.
        """
        content = self._cache.get(node.digest)
        if content is not None:
            self._cache.move_to_end(node.digest)
            return content

        content = await anyio.to_thread.run_sync(self._read, node, limiter=self._threads)
        if content is not None:
            self._keep(node.digest, content)

        return content

    async def has(self, node: Descriptor) -> bool:
        """Return True if a blob is stored.

        :raises MirrorDamaged: if it has another size than its manifest says.
        :raises StoreError: if the storage fails.
        """
        return await anyio.to_thread.run_sync(self._has, node, limiter=self._threads)

    async def open(self, node: Descriptor) -> OpenBlob | None:
        """Open a blob, None if it is missing. The caller closes it.

        :raises MirrorDamaged: if it has another size than its manifest says.
        :raises StoreError: if the storage fails.
        """
        return await anyio.to_thread.run_sync(self._open, node, limiter=self._threads)

    async def in_thread(self, blob: OpenBlob, size: int) -> bytes:
        """Return the next bytes of an open blob, at most `size`."""
        return await anyio.to_thread.run_sync(partial(blob.file.read, size), limiter=self._threads)

    def _read(self, node: Descriptor) -> bytes | None:
        content = self._reader.read(node.digest, MAX_MANIFEST_BYTES)
        if content is None and self._reader.exists(node.digest):
            raise MirrorDamaged(f"{node.digest} in {self._storage} is damaged: use verify --repair")

        return content

    def _has(self, node: Descriptor) -> bool:
        info = self._storage.info(blob_key(node.digest))
        if info is not None:
            self._check_size(node, info.size)

        return info is not None

    def _open(self, node: Descriptor) -> OpenBlob | None:
        if not self._has(node):
            return None

        with ExitStack() as stack:
            file = stack.enter_context(self._storage.open(blob_key(node.digest)))
            self._check_size(node, file.seek(0, 2))
            file.seek(0)
            return OpenBlob(file, node.size, self._storage.path(node.digest) is not None, stack.pop_all())

    def _check_size(self, node: Descriptor, size: int) -> None:
        if size != node.size:
            raise MirrorDamaged(
                f"{node.digest} in {self._storage} has {size:,} of {node.size:,} bytes: use verify --repair"
            )

    def _keep(self, digest: Digest, content: bytes) -> None:
        self._cached_bytes += len(content) - len(self._cache.get(digest, b""))
        self._cache[digest] = content
        while self._cached_bytes > self._most:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= len(old)
