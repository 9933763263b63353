"""A storage in memory: the smallest one that the contract of storages allows."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from quaymirror.errors import DigestMismatch, LockHeld, ReadInterrupted, SizeMismatch, TargetRefused
from quaymirror.oci import Descriptor, Digest
from quaymirror.store.documents import OCI_LAYOUT
from quaymirror.store.lock import Patience
from quaymirror.store.storage import MARKER, ObjectInfo, WantsKey, blob_key, every


@dataclass
class MemorySink:
    """Collects the bytes of one blob."""

    storage: MemoryStorage
    node: Descriptor
    content: bytearray = field(default_factory=bytearray)
    committed: bool = False
    admit: Callable[[], None] | None = None

    @property
    def offset(self) -> int:
        return len(self.content)

    async def prepare(self) -> None:
        pass

    def threaded(self) -> None:
        pass

    def segments(self) -> None:
        return None

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            await self.write(chunk)

    async def write(self, chunk: bytes) -> None:
        self.content += chunk
        if len(self.content) > self.node.size:
            await self.reset()
            raise SizeMismatch(f"{self.node.digest}: more than {self.node.size:,} bytes")

    async def reset(self) -> None:
        self.content.clear()

    async def commit(self) -> None:
        if len(self.content) < self.node.size:
            raise ReadInterrupted(f"{self.node.digest}: {len(self.content):,} of {self.node.size:,} bytes")

        if not self.node.digest.matches(bytes(self.content)):
            await self.reset()
            raise DigestMismatch(f"{self.node.digest}: other bytes")

        self.storage.replace(blob_key(self.node.digest), bytes(self.content))
        self.committed = True


@dataclass
class MemoryStorage:
    """A layout in a dictionary; see `Storage`."""

    objects: dict[str, ObjectInfo] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    writers: int = 0
    readers: int = 0
    deleting: bool = False
    leases: list[MemoryLease] = field(default_factory=list)

    def __str__(self) -> str:
        return "memory"

    def path(self, digest: Digest) -> Path | None:
        return None

    def exists(self) -> bool:
        if self.contents and MARKER not in self.contents:
            raise TargetRefused(f"{self} contains other objects")

        return MARKER in self.contents

    def create(self) -> None:
        pass

    def info(self, key: str) -> ObjectInfo | None:
        return self.objects.get(key)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        content = self.contents.get(key)
        return content if content is None or limit < 0 else content[:limit]

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.contents[key])

    def put(self, key: str, content: bytes) -> bool:
        if key in self.contents:
            return False

        self.replace(key, content)
        return True

    def replace(self, key: str, content: bytes) -> None:
        self.contents[key] = content
        self.objects[key] = ObjectInfo(key, len(content), time.time())

    def list_objects(self, prefix: str, *, wants: WantsKey = every) -> Iterator[ObjectInfo]:
        keys = sorted(key for key in self.objects if key.startswith(f"{prefix}/") and wants(key))
        yield from (self.objects[key] for key in keys)

    def delete(self, key: str) -> None:
        self.contents.pop(key, None)
        self.objects.pop(key, None)

    @asynccontextmanager
    async def sink(self, node: Descriptor) -> AsyncIterator[MemorySink]:
        yield MemorySink(self, node)

    def partials(self, *, older_than: float = 0.0) -> list[ObjectInfo]:
        return []

    def persist(self, node: Descriptor) -> None:
        pass

    def flush(self, digests: Collection[Digest]) -> None:
        pass

    def free_space(self) -> None:
        return None

    def stored_bytes(self, node: Descriptor) -> int:
        info = self.info(blob_key(node.digest))
        return info.size if info is not None else 0

    @asynccontextmanager
    async def writing(self, patience: Patience | None) -> AsyncIterator[MemoryLock]:
        while self.writers:
            error = LockHeld(f"{self} is in use by another run")
            if patience is None:
                raise error

            await patience(error)

        if not self.exists():
            self.put(MARKER, OCI_LAYOUT)

        self.writers += 1
        try:
            yield MemoryLock(self)
        finally:
            self.writers -= 1

    def leasing(self) -> AbstractContextManager[MemoryLease]:
        return self._leasing()

    @contextmanager
    def _leasing(self) -> Iterator[MemoryLease]:
        lease = MemoryLease(self)
        self.leases.append(lease)
        try:
            yield lease
        finally:
            self.leases.remove(lease)

    def leased(self) -> set[Digest]:
        return {digest for lease in self.leases for digest in lease.digests}

    def reading(self) -> AbstractContextManager[None]:
        return self._reading()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self.deleting:
            raise LockHeld(f"{self} is in use by another run")

        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1


@dataclass(eq=False)
class MemoryLease:
    """A lease of content of a memory storage."""

    storage: MemoryStorage
    digests: frozenset[Digest] = frozenset()

    def renew(self, find: Callable[[], Collection[Digest]]) -> bool:
        if self.storage.deleting:
            return False

        self.digests = frozenset(find())
        return True


@dataclass
class MemoryLock:
    """The lock of the writer of a memory storage."""

    storage: MemoryStorage

    @contextmanager
    def alone(self) -> Iterator[None]:
        if self.storage.readers:
            raise LockHeld(f"{self.storage} is being read")

        self.storage.deleting = True
        try:
            yield
        finally:
            self.storage.deleting = False
