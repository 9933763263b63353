"""Blobs under their digest: `blobs/<algorithm>/<encoded>` (OCI image-spec, image-layout.md, "Blobs").

A file there has exactly the bytes its name says, from the instant it exists.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from ..errors import MirrorDamaged
from ..oci import Descriptor, Digest
from . import fsops
from .executor import ExecutorPool
from .fsops import Fsync
from .ingest import BATCH_BYTES, Ingest, Place

T = TypeVar("T")

_READ_BYTES = 1024 * 1024
# What nobody has continued for so long, nobody will.
_STALE_SECONDS = 7 * 86_400.0


class BlobStore:
    """The blobs of one layout. Nothing here trusts a name: they come from validated digests only."""

    def __init__(self, root: Path, *, threads: int = 8, fsync: Fsync = Fsync.ALWAYS) -> None:
        self.syncs_files = fsync is Fsync.ALWAYS
        """Whether each file is durable before it has its name."""
        self._blobs = root / "blobs"
        self._prefix = str(self._blobs)
        self._ingest = root / ".quaymirror" / "ingest"
        # Its own threads: those of the default limiter may all be waiting for something that needs the disk.
        self._limiter = anyio.CapacityLimiter(threads)
        self._lanes = ExecutorPool(threads)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function of the disk off the event loop."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def path(self, digest: Digest) -> Path:
        """Return where the content with `digest` is, or would be."""
        return self._blobs / digest.algorithm / digest.encoded

    def directory(self, digest: Digest) -> Path:
        """Return the directory that has to be synced for the name of `digest` to be durable."""
        return self._blobs / digest.algorithm

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether there is a regular file of the right size under the descriptor's name; its bytes are not read.

        :raises MirrorDamaged: when something else is there: someone tampered with the mirror.
        """
        status = self._file(descriptor.digest)
        return status is not None and status.st_size == descriptor.size

    def exists(self, digest: Digest) -> bool:
        """Tell whether there is a regular file of any size under the name of `digest`.

        :raises MirrorDamaged: when something else is there.
        """
        return self._file(digest) is not None

    def verify(self, descriptor: Descriptor) -> bool:
        """Read the content and tell whether it is there and right."""
        if not self.has(descriptor):
            return False

        hasher = descriptor.digest.hasher()
        path = self.path(descriptor.digest)
        with fsops.local_errors("read", path), path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)

        return hasher.hexdigest() == descriptor.digest.encoded

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """Return the content with `digest`, None if it is not here, is over `limit` bytes, or is damaged.

        :raises StoreError: when it can't be read.
        :raises MirrorDamaged: when it is no file.
        """
        if not self.exists(digest):
            return None

        path = self.path(digest)
        with fsops.local_errors("read", path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None

            with os.fdopen(descriptor, "rb") as file:
                content = file.read(limit + 1)

        return content if len(content) <= limit and digest.matches(content) else None

    def adopt(self, descriptor: Descriptor) -> bool:
        """Tell whether content that nobody vouches for is there and right; if so, it is durable from now on, too.

        :raises StoreError: when it can't be read or synced.
        """
        if not self.verify(descriptor):
            return False

        if self.syncs_files:
            fsops.sync_file(self.path(descriptor.digest))

        return True

    def remaining(self, descriptor: Descriptor, unit: int = 1) -> int:
        """Return how many bytes, in whole `unit`s, the disk still has to take for a blob: less than its size if some
        of it is there from an attempt that broke off."""
        if self.has(descriptor):
            return 0

        try:
            status = self._partial(descriptor).lstat()
            # It may have holes: what the disk gave for it is what counts.
            there = min(status.st_size, status.st_blocks * 512) if descriptor.size > BATCH_BYTES else 0
        except FileNotFoundError:
            there = 0

        return fsops.in_blocks(max(0, descriptor.size - there), unit)

    def remove(self, digest: Digest) -> None:
        """Remove what stands under the name of `digest`.

        :raises StoreError: when that can't be done.
        """
        fsops.remove(self.path(digest))

    @asynccontextmanager
    async def ingest(self, descriptor: Descriptor) -> AsyncIterator[Ingest]:
        """Hand out a place to write the blob to; it has its name after `commit`.

        What was written of it by an earlier run is still there: see `Ingest.offset`. What is written now and not
        committed stays for the next one, unless it is little.

        :raises StoreError: when the disk refuses.
        """
        place = Place(self._partial(descriptor), self.path(descriptor.digest), syncs=self.syncs_files)
        is_small = descriptor.size <= BATCH_BYTES
        ingest = Ingest(descriptor, place, self._lanes.run if is_small else self.in_thread)
        try:
            if not is_small:
                await self.in_thread(ingest.resume)

            yield ingest
        finally:
            ingest.close()

    def prepare(self) -> None:
        """Create the directories, and remove what broke off so long ago that nobody will continue it.

        :raises StoreError: when that can't be done.
        """
        fsops.make_directory(self._blobs / "sha256")
        fsops.make_directory(self._ingest)
        for path, _ in self.partials(older_than=_STALE_SECONDS):
            fsops.remove(path)

    def partials(self, *, older_than: float = 0.0) -> list[tuple[Path, int]]:
        """Return what broke off and has not been touched for `older_than` seconds, with sizes in bytes.

        :raises StoreError: when the directory can't be read.
        """
        before, found = time.time() - older_than, []
        with fsops.local_errors("read", self._ingest):
            for path in sorted((*self._ingest.glob("*.part"), *self._ingest.glob("*.ranges"))):
                with suppress(FileNotFoundError):  # it may just have become a blob
                    found.append((path, path.lstat()))

        return [(path, status.st_size) for path, status in found if status.st_mtime <= before]

    def _file(self, digest: Digest) -> os.stat_result | None:
        """Look at the regular file under the name of `digest`; None if nothing is there."""
        path = f"{self._prefix}/{digest.algorithm}/{digest.encoded}"  # asked for often: a Path takes longer than stat
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None

        if not stat.S_ISREG(status.st_mode):
            raise MirrorDamaged(f"{path} is not a regular file: remove it, it does not belong there")

        return status

    def _partial(self, descriptor: Descriptor) -> Path:
        return self._ingest / f"{descriptor.digest.algorithm}-{descriptor.digest.encoded}.part"
