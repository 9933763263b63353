"""Ingest of one blob: written from its start or in segments in any order, hashed in order, resumable.

    .quaymirror/ingest/<algorithm>-<encoded>.part      the bytes, each at its offset
    .quaymirror/ingest/<algorithm>-<encoded>.ranges    the ranges that are written; without it, all up to the end

The bytes of a segment are written before its line in `.ranges`, so files of a killed process are consistent. After a
power loss they may not be; then the digest does not match, and the blob starts again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import DigestMismatch, ReadInterrupted, SizeMismatch
from ..http.bodies import Read
from ..http.files import FileFill, FilePart, Written
from ..oci import Descriptor, Digest
from ..values import dataclass
from . import extents, fsops
from .lock import claim

# The bytes that one call of a thread hashes and writes: a switch costs as much as hashing 200 KiB, so chunks are
# collected, and a smaller blob needs only the call that syncs and renames it.
BATCH_BYTES = 512 * 1024
_READ_BYTES = 1024 * 1024
# A thread receives into such a buffer. It fits into the cache of a core, so that hashing finds the bytes there.
_BUFFER_BYTES = 256 * 1024
# Far more lines than the largest blob has segments.
_MOST_RANGES_BYTES = 16 * 1024 * 1024
# Numbers of contents for other processes; one that starts over has another number.
_KEYS = count(1)


InThread = Callable[..., Awaitable[Any]]
"""Runs a blocking function with arguments off the event loop, and returns its result."""


@dataclass(frozen=True, slots=True)
class BlobPaths:
    """The `partial` file and the `final` name of a blob; the file is synced before it is renamed if `syncs`.

    `check` is called before a file is created or renamed, and raises an error if that must not happen any more.
    """

    partial: Path
    final: Path
    syncs: bool
    check: Callable[[], None] = lambda: None

    @property
    def ranges(self) -> Path:
        """The file that lists the ranges of the partial file that are written."""
        return self.partial.with_suffix(".ranges")


class Segment:
    """Consecutive bytes of a blob from `offset` to `end`, which is not included. Not safe for several writers."""

    def __init__(self, ingest: Ingest, start: int, end: int) -> None:
        self._ingest = ingest
        self._waiting: list[bytes] = []
        self._written = start
        self.offset: int = start
        """The position of the next byte."""
        self.end = end

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`; see `sink.Segment.receive`."""
        async for chunk in chunks:
            await self.write(chunk)

        if self.offset < self.end:
            raise ReadInterrupted(f"{self._ingest.digest}: got {self.offset:,} of {self.end:,} bytes")

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`; see `receive`."""
        if self.offset + len(chunk) > self.end:
            raise SizeMismatch(f"{self._ingest.digest}: more than the {self.end:,} bytes announced")

        self._waiting.append(chunk)
        self.offset += len(chunk)
        if self.offset - self._written >= BATCH_BYTES:
            await self.flush()

    def threaded(self) -> FileFill:
        """Return the function by which a thread or another process appends bytes."""
        return _Fill(self._ingest, self)

    async def part(self) -> FilePart:
        """Return the part of the file to which another process may write until `record` is called."""
        if self._waiting or not self._ingest.is_open:
            await self._ingest.in_thread(self._prepare)

        return self._ingest.part(self.offset, self.end)

    def _prepare(self) -> None:
        if self._waiting:
            self.write_out()

        self._ingest.open()

    async def record(self, written: Written) -> None:
        """Record what another process has written; see `FileFill.record`."""
        start, self.offset = self.offset, self.offset + written.size
        self._written = self.offset
        if written.size and not self._ingest.believe(start, self.offset, written.digest):
            await self._ingest.in_thread(self._ingest.record, start, self.offset)

        self._ingest.check_disk(written.error)
        if written.has_too_many:
            raise SizeMismatch(f"{self._ingest.digest}: more than the {self.end:,} bytes announced")

        if self.offset < self.end:
            raise ReadInterrupted(f"{self._ingest.digest}: got {self.offset:,} of {self.end:,} bytes")

    def fill(self, read: Read) -> None:
        """Append the bytes that `read` puts into a buffer; see `receive`. It blocks."""
        self.write_out()
        buffer, filled = memoryview(bytearray(_BUFFER_BYTES)), 0
        try:
            while count := read(buffer[filled:]):
                if self.offset + count > self.end:
                    raise SizeMismatch(f"{self._ingest.digest}: more than the {self.end:,} bytes announced")

                self.offset += count
                filled += count
                if filled >= _BUFFER_BYTES // 2:
                    filled, chunk = 0, buffer[:filled]
                    self._store(chunk)
        finally:
            if filled:
                self._store(buffer[:filled])

        if self.offset < self.end:
            raise ReadInterrupted(f"{self._ingest.digest}: got {self.offset:,} of {self.end:,} bytes")

    def _store(self, chunk: memoryview) -> None:
        start, self._written = self._written, self.offset
        self._ingest.store(start, self._written, [chunk])

    async def flush(self) -> None:
        """Write the collected chunks; see `sink.Segment.flush`."""
        await self._ingest.in_thread(self.write_out)

    def write_out(self) -> None:
        """Write the collected chunks."""
        chunks, self._waiting = self._waiting, []
        start, self._written = self._written, self.offset
        # This also creates the file of a small blob, even if it is empty.
        if chunks or self._ingest.is_small:
            self._ingest.store(start, self._written, chunks)


class Ingest:
    """The sink of one blob. It is received from `offset` on, or in segments, several of them at the same time.

    Its methods raise `StoreError` if the disk fails.
    """

    def __init__(self, descriptor: Descriptor, paths: BlobPaths, in_thread: InThread) -> None:
        self.digest: Digest = descriptor.digest
        self.in_thread = in_thread
        self.is_small: bool = descriptor.size <= BATCH_BYTES
        """True if one call writes and renames it."""
        self.committed: bool = False
        """True if the blob is stored under its digest."""
        self.admit: Callable[[], None] | None = None
        """Called once before the first byte is written; its errors end the transfer."""
        self._size = descriptor.size
        self._paths = paths
        self._file: int | None = None
        self._ranges: int | None = None
        self._lock = threading.Lock()
        self._extents = extents.Extents()
        self._hashing = threading.Lock()
        self._hasher = descriptor.digest.hasher()
        self._hashed = 0
        self._known = ""
        """The hash of the bytes up to `_believed`, by another process."""
        self._believed = 0
        self._key = next(_KEYS)
        self._rest = Segment(self, 0, self._size)

    @property
    def offset(self) -> int:
        """The number of bytes written, from the start."""
        return self._rest.offset

    async def prepare(self) -> None:
        """Prepare an attempt: bytes of segments count from now on."""
        if self._extents.prefix > self._rest.offset:
            self._rest = Segment(self, self._extents.prefix, self._size)

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`; see `Sink.receive`. If some are missing, the others are kept; if too many come, none is."""
        try:
            await self._rest.receive(chunks)
        except SizeMismatch:
            await self.reset()
            raise

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`; see `receive`."""
        await self._rest.write(chunk)

    def segments(self) -> Ingest | None:
        """Return the sink as one that takes segments."""
        return None if self.is_small else self

    def threaded(self) -> FileFill:
        """Return the function by which a thread or another process appends bytes."""
        return _Fill(self)

    @property
    def is_open(self) -> bool:
        """True if the file is open, and may be written to."""
        return self._file is not None and self.admit is None

    def part(self, start: int, end: int) -> FilePart:
        """Return the part of the open file from `start` to before `end`."""
        assert self._file is not None
        algorithm = self.digest.algorithm if start == self._believed and not self._hashed else ""
        return FilePart(self._file, start, end, algorithm, self._key)

    async def next_part(self) -> FilePart:
        """Return the part of the file from `offset` on; see `Segment.part`."""
        return await self._rest.part()

    async def record_next(self, written: Written) -> None:
        """Record what another process has written from `offset` on; if too many bytes came, none is kept."""
        try:
            await self._rest.record(written)
        except SizeMismatch:
            await self.reset()
            raise

    def believe(self, start: int, end: int, digest: str) -> bool:
        """Keep the hash of all bytes up to `end` that another process has; return True if nothing is left to record."""
        if not digest or start != self._believed:
            return False

        self._believed, self._known = end, digest
        if end == self._size:
            self._hashed = end

        if self._ranges is not None:
            return False

        with self._lock:
            self._extents.add(start, end)

        return True

    def record(self, start: int, end: int) -> None:
        """Record bytes that another process has written, and hash them if that has not done it."""
        if self._ranges is not None:
            fsops.write_all(self._ranges, [extents.line(start, end)], self._paths.ranges)

        with self._lock:
            self._extents.add(start, end)

        if self._prefix() > self._believed and self._hashing.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self._hashing.release()

    def check_disk(self, error: int) -> None:
        """Raise StoreError if another process could not write to the file; `error` is the number of its error."""
        if error:
            with fsops.local_errors("write", self._paths.partial):
                raise OSError(error, os.strerror(error))

    def fill(self, read: Read) -> None:
        """Append the bytes that `read` puts into a buffer; see `receive`. It blocks."""
        try:
            self._rest.fill(read)
        except SizeMismatch:
            if self._file is not None:
                self._truncate()

            self._forget()
            raise

    def gaps(self) -> list[tuple[int, int]]:
        """Return the missing ranges, `(start, end)`, in order."""
        return self._extents.gaps(self._size)

    async def segment(self, start: int, end: int) -> Segment:
        """Return a segment within a gap that no other segment covers. The first one is requested before the others."""
        if self._ranges is None:
            await self.in_thread(self._begin_ranges)

        return Segment(self, start, end)

    async def reset(self) -> None:
        """Drop everything written so far."""
        if self._file is not None:
            await self.in_thread(self._truncate)

        self._forget()

    async def commit(self) -> None:
        """Store the blob under its digest; see `Sink.commit`. Wrong bytes are dropped."""
        await self.prepare()
        if self.offset < self._size:
            raise ReadInterrupted(f"{self.digest}: got {self.offset:,} of {self._size:,} bytes")

        self.committed = await self.in_thread(self._finish)
        if not self.committed:
            await self.reset()
            raise DigestMismatch(f"{self.digest}: the content has another digest")

    def resume(self) -> None:
        """Continue the file of an earlier run; the bytes from its start are read once for the hash."""
        self._file = fsops.open_part(self._paths.partial)
        claim(self._file, self._paths.partial)
        with fsops.local_errors("read", self._paths.partial):
            size = os.fstat(self._file).st_size

        ranges = fsops.read_file(self._paths.ranges, _MOST_RANGES_BYTES)
        if ranges is None:
            self._extents.add(0, size)
        elif size:
            self._extents = extents.parse(ranges, min(size, self._size))
            self._ranges = fsops.open_part(self._paths.ranges, os.O_APPEND)
        else:
            fsops.remove(self._paths.ranges)

        if size > self._size:
            self._truncate()
            self._extents.clear()
            return

        self._catch_up()
        self._rest = Segment(self, self._extents.prefix, self._size)

    def close(self) -> None:
        """Close the files. If the blob is not committed, they stay if they are worth resuming."""
        file, ranges, self._file, self._ranges = self._file, self._ranges, None, None
        try:
            # Only whole batches are on the disk: a small blob is fetched again.
            is_nothing = self.is_small or (file is not None and os.fstat(file).st_size == 0)
            if is_nothing and not self.committed:
                with suppress(OSError):
                    self._paths.partial.unlink(missing_ok=True)
                    self._paths.ranges.unlink(missing_ok=True)
        finally:
            for descriptor in (file, ranges):
                if descriptor is not None:
                    os.close(descriptor)

    def open(self) -> None:
        """Open the file, once it is admitted."""
        admit, self.admit = self.admit, None
        if admit is not None:
            admit()

        if self._file is None:
            # A small blob is not resumed: the file of a crash is replaced.
            self._paths.check()
            self._file = fsops.open_part(self._paths.partial, os.O_TRUNC)

    def store(self, start: int, end: int, chunks: Sequence[bytes | memoryview]) -> None:
        """Write `chunks` at their offset, from any thread, and hash all bytes that follow the hashed ones."""
        self.open()
        assert self._file is not None
        fsops.write_all(self._file, chunks, self._paths.partial, offset=start)
        if self._ranges is not None:
            fsops.write_all(self._ranges, [extents.line(start, end)], self._paths.ranges)

        with self._lock:
            self._extents.add(start, end)

        # If another thread is hashing, it or the last one also hashes these bytes.
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
        """Hash the bytes up to the first gap, reading them from the disk."""
        assert self._file is not None
        while self._hashed < self._prefix():
            length = min(_READ_BYTES, self._prefix() - self._hashed)
            with fsops.local_errors("read", self._paths.partial):
                content = os.pread(self._file, length, self._hashed)

            if not content:
                break  # the file was truncated: the comparison of sizes fails in the end

            self._hasher.update(content)
            self._hashed += len(content)

    def _forget(self) -> None:
        self._extents.clear()
        self._hasher, self._hashed = self.digest.hasher(), 0
        self._known, self._believed, self._key = "", 0, next(_KEYS)
        self._rest = Segment(self, 0, self._size)

    def _prefix(self) -> int:
        with self._lock:
            return self._extents.prefix

    def _begin_ranges(self) -> None:
        """Create the file of ranges, before the first byte that follows a gap."""
        ranges = fsops.open_part(self._paths.ranges, os.O_APPEND | os.O_TRUNC)
        fsops.write_all(ranges, [extents.line(0, self._prefix())], self._paths.ranges)
        self._ranges = ranges

    def _truncate(self) -> None:
        assert self._file is not None
        # In this order: the ranges of an empty file are ignored, but a file with holes needs its ranges.
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
        # The hash covers the bytes that arrived, the size those on the disk.
        written = os.fstat(self._file).st_size
        is_known = self._believed == self._size and bool(self._known)
        digest = self._known if is_known else self._hasher.hexdigest()
        if digest != self.digest.encoded or written != self._size:
            return False

        self._paths.check()
        if not self._paths.final.parent.exists():
            fsops.make_directory(self._paths.final.parent)

        self._drop_ranges()
        fsops.seal(self._file, self._paths.partial, sync=self._paths.syncs)
        file, self._file = self._file, None
        fsops.close(file, self._paths.partial)
        fsops.publish(self._paths.partial, self._paths.final)
        return True


class _Fill(FileFill):
    """Appends bytes to a segment, or to the rest of a blob."""

    def __init__(self, ingest: Ingest, segment: Segment | None = None) -> None:
        self._ingest = ingest
        self._segment = segment

    def __call__(self, read: Read) -> None:
        (self._segment or self._ingest).fill(read)

    async def open(self) -> FilePart:
        return await (self._segment.part() if self._segment is not None else self._ingest.next_part())

    async def record(self, written: Written) -> None:
        await (self._segment.record(written) if self._segment is not None else self._ingest.record_next(written))
