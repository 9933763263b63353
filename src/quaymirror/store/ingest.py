"""One blob on its way in: written in one go or in pieces that arrive in any order, hashed in order, resumable.

    .quaymirror/ingest/<algorithm>-<encoded>.part      the bytes, each at its place
    .quaymirror/ingest/<algorithm>-<encoded>.ranges    which of them are there; without it, all up to the end

A piece's bytes are written before its line in `.ranges`: what a killed process left is right. After a power loss the
two may disagree; then the digest does, too, and the blob starts over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ..errors import DigestMismatch, ReadInterrupted, SizeMismatch
from ..oci import Descriptor
from . import extents, fsops

T = TypeVar("T")

# What is hashed and written in one go, off the loop: a thread hop costs as much as hashing 200 KiB, so chunks are
# gathered; and small blobs need no more than the one hop that syncs and names them.
BATCH_BYTES = 512 * 1024
_READ_BYTES = 1024 * 1024
# Far more lines than pieces of the largest blob; whoever wrote more into that file was not us.
_MOST_RANGES_BYTES = 16 * 1024 * 1024


class InThread(Protocol):
    """Runs a blocking function of the disk off the event loop."""

    def __call__(self, function: Callable[..., T], *arguments: object) -> Awaitable[T]:
        """Return what `function` returns."""


@dataclass(frozen=True, slots=True)
class BlobPaths:
    """Where a blob is written: the `partial` file, and the `final` name; `syncs` it before it gets that."""

    partial: Path
    final: Path
    syncs: bool

    @property
    def ranges(self) -> Path:
        """The file that says which bytes of the partial file are there."""
        return ranges_of(self.partial)


def ranges_of(partial: Path) -> Path:
    """Return where it is written down which bytes of `partial` are there."""
    return partial.with_suffix(".ranges")


class Segment:
    """Some consecutive bytes of a blob, from `offset` on, `end` not included. Not for two writers at a time."""

    def __init__(self, ingest: Ingest, start: int, end: int) -> None:
        self._ingest = ingest
        self._waiting: list[bytes] = []
        self._written = start
        self.offset = start
        """Where the next byte goes."""
        self.end = end

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Take `chunks`, which begin at `offset`. What came before an error is kept.

        :raises SizeMismatch: when they go beyond `end`.
        :raises ReadInterrupted: when they end before it.
        :raises StoreError: when the disk refuses.
        """
        async for chunk in chunks:
            await self.write(chunk)

        if self.offset < self.end:
            raise ReadInterrupted(f"{self._ingest.digest}: got {self.offset:,} of {self.end:,} bytes")

    async def write(self, chunk: bytes) -> None:
        """Take `chunk`, which begins at `offset`.

        :raises SizeMismatch: when it goes beyond `end`.
        :raises StoreError: when the disk refuses.
        """
        if self.offset + len(chunk) > self.end:
            raise SizeMismatch(f"{self._ingest.digest}: more than the {self.end:,} bytes announced")

        self._waiting.append(chunk)
        self.offset += len(chunk)
        if self.offset - self._written >= BATCH_BYTES:
            await self._ingest.in_thread(self.write_out)

    async def flush(self) -> None:
        """Write the last of it, too.

        :raises StoreError: when the disk refuses.
        """
        await self._ingest.in_thread(self.write_out)

    def write_out(self) -> None:
        """Write what waits.

        :raises StoreError: when the disk refuses.
        """
        chunks, self._waiting = self._waiting, []
        start, self._written = self._written, self.offset
        # What is small is opened by that, even if it is empty.
        if chunks or self._ingest.is_small:
            self._ingest.store(start, self._written, chunks)


class Ingest:
    """One blob on its way in. It is received from `offset` on, or in pieces, of which several may come at a time."""

    def __init__(self, descriptor: Descriptor, paths: BlobPaths, in_thread: InThread) -> None:
        self.digest = descriptor.digest
        self.in_thread = in_thread
        self.is_small = descriptor.size <= BATCH_BYTES
        """Whether it is written and named in one go."""
        self.committed = False
        """Whether the blob has its name."""
        self._size = descriptor.size
        self._paths = paths
        self._file: int | None = None
        self._ranges: int | None = None
        self._lock = threading.Lock()
        self._there = extents.Extents()
        self._hashing = threading.Lock()
        self._hasher = descriptor.digest.hasher()
        self._hashed = 0
        self._rest = Segment(self, 0, self._size)

    @property
    def offset(self) -> int:
        """How many bytes there are, from the start."""
        return self._rest.offset

    async def prepare(self) -> None:
        """Make ready for an attempt: what pieces brought counts from now on."""
        if self._there.prefix > self._rest.offset:
            self._rest = Segment(self, self._there.prefix, self._size)

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`.

        :raises SizeMismatch: when that is more than the descriptor has; everything written is dropped.
        :raises ReadInterrupted: when it is less; what came is kept.
        :raises StoreError: when the disk refuses.
        """
        try:
            await self._rest.receive(chunks)
        except SizeMismatch:
            await self.reset()
            raise

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`; see `receive`."""
        await self._rest.write(chunk)

    def segments(self) -> Ingest | None:
        """Return the sink as one that takes pieces."""
        return None if self.is_small else self

    def gaps(self) -> list[tuple[int, int]]:
        """Return the stretches that are missing, `(start, end)`, in order."""
        return self._there.gaps(self._size)

    async def segment(self, start: int, end: int) -> Segment:
        """Return the place for one piece; it has to be in a gap, and no other piece's. The first is asked for alone.

        :raises StoreError: when the disk refuses.
        """
        if self._ranges is None:
            await self.in_thread(self._begin_ranges)

        return Segment(self, start, end)

    async def reset(self) -> None:
        """Forget everything written so far.

        :raises StoreError: when the disk refuses.
        """
        if self._file is not None:
            await self.in_thread(self._truncate)

        self._there.clear()
        self._hasher, self._hashed = self.digest.hasher(), 0
        self._rest = Segment(self, 0, self._size)

    async def commit(self) -> None:
        """Give the content its name, now that all of it is there and right.

        :raises ReadInterrupted: when bytes are missing; those that came are kept.
        :raises DigestMismatch: when the bytes are the wrong ones; everything written is dropped.
        :raises StoreError: when the disk refuses.
        """
        await self.prepare()
        if self.offset < self._size:
            raise ReadInterrupted(f"{self.digest}: got {self.offset:,} of {self._size:,} bytes")

        self.committed = await self.in_thread(self._finish)
        if not self.committed:
            await self.reset()
            raise DigestMismatch(f"{self.digest}: received other bytes of the right number")

    def resume(self) -> None:
        """Take up what an earlier run left, reading the start of it once to know its hash so far.

        :raises StoreError: when the disk refuses.
        """
        self._file = fsops.open_for_update(self._paths.partial)
        with fsops.local_errors("read", self._paths.partial):
            there = os.fstat(self._file).st_size

        written_down = fsops.read_file(self._paths.ranges, _MOST_RANGES_BYTES)
        if written_down is None:
            self._there.add(0, there)
        elif there:
            self._there = extents.parse(written_down, min(there, self._size))
            self._ranges = fsops.open_for_append(self._paths.ranges)
        else:
            fsops.remove(self._paths.ranges)

        if there > self._size:
            self._truncate()
            self._there.clear()
            return

        self._catch_up()
        self._rest = Segment(self, self._there.prefix, self._size)

    def close(self) -> None:
        """Let go of the files. What is there but not committed stays if it is worth resuming, and goes otherwise."""
        file, ranges, self._file, self._ranges = self._file, self._ranges, None, None
        try:
            # Only whole batches went to disk: the rest is fetched again, or it wasn't worth keeping.
            is_nothing = self.is_small or (file is not None and os.fstat(file).st_size == 0)
            if is_nothing and not self.committed:
                with suppress(OSError):
                    self._paths.partial.unlink(missing_ok=True)
                    self._paths.ranges.unlink(missing_ok=True)
        finally:
            for descriptor in (file, ranges):
                if descriptor is not None:
                    os.close(descriptor)

    def store(self, start: int, end: int, chunks: list[bytes]) -> None:
        """Put `chunks` at their place, from any thread, and hash what can be hashed by now.

        :raises StoreError: when the disk refuses.
        """
        if self._file is None:
            # A small blob is not resumed: what a crash left of it is not the start of what is written now.
            self._file = fsops.open_for_update(self._paths.partial, keep=False)

        fsops.write_at(self._file, chunks, start, self._paths.partial)
        if self._ranges is not None:
            fsops.write_all(self._ranges, [extents.line(start, end)], self._paths.ranges)

        with self._lock:
            self._there.add(start, end)

        # Who does not get the lock leaves the hashing to who has it, or to the last.
        if self._hashing.acquire(blocking=False):
            try:
                if start == self._hashed:
                    for chunk in chunks:
                        self._hasher.update(chunk)

                    self._hashed = end

                self._catch_up()
            finally:
                self._hashing.release()

    def _catch_up(self) -> None:
        """Hash from the disk what is there by now, from the start without a gap."""
        assert self._file is not None
        while self._hashed < self._prefix():
            length = min(_READ_BYTES, self._prefix() - self._hashed)
            with fsops.local_errors("read", self._paths.partial):
                content = os.pread(self._file, length, self._hashed)

            if not content:
                break  # shorter than it was: the size tells in the end

            self._hasher.update(content)
            self._hashed += len(content)

    def _prefix(self) -> int:
        with self._lock:
            return self._there.prefix

    def _begin_ranges(self) -> None:
        """Write down what is there so far, before the first byte that does not follow it."""
        ranges = fsops.open_for_append(self._paths.ranges, keep=False)
        fsops.write_all(ranges, [extents.line(0, self._prefix())], self._paths.ranges)
        self._ranges = ranges

    def _truncate(self) -> None:
        assert self._file is not None
        # In this order: ranges of an empty file say nothing, a file with holes and without ranges would lie.
        fsops.truncate(self._file, self._paths.partial)
        self._drop_ranges()

    def _drop_ranges(self) -> None:
        ranges, self._ranges = self._ranges, None
        if ranges is not None:
            os.close(ranges)
            fsops.remove(self._paths.ranges)

    def _finish(self) -> bool:
        self._rest.write_out()
        self._catch_up()
        assert self._file is not None
        # The hash is of what came, the size of what is on the disk: the name promises both.
        written = os.fstat(self._file).st_size
        if self._hasher.hexdigest() != self.digest.encoded or written != self._size:
            return False

        if not self._paths.final.parent.exists():
            fsops.make_directory(self._paths.final.parent)

        self._drop_ranges()
        fsops.seal(self._file, self._paths.partial, sync=self._paths.syncs)
        file, self._file = self._file, None
        fsops.close(file, self._paths.partial)
        fsops.publish(self._paths.partial, self._paths.final)
        return True
