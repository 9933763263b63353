"""The content of a layout, as a source of blobs and manifests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO, TypeVar

import anyio
import anyio.to_thread

from ...errors import NotFound
from ...http.validator import Validator
from ...oci import Descriptor, Digest, Reference, Repository, manifest
from ...oci.manifest import Node
from ...registry.pull import check_expected
from ...registry.source import Attempts, BlobRequest
from ...store.storage import blob_key
from ...values import dataclass
from .files import LayoutFiles, damaged, naming, opened, read_content

T = TypeVar("T")

_READ_BYTES = 1024 * 1024
_THREADS = 16


class FileStream:
    """The bytes of a blob from `offset` to before `end`, read from a file. As a context, it closes itself."""

    location: str = ""
    host: str = ""
    validator: Validator | None = None
    held: float = 0.0
    threaded: None = None

    def __init__(
        self,
        run: Callable[[Callable[[], bytes]], Awaitable[bytes]],
        file: BinaryIO,
        first: bytes,
        bounds: tuple[int, int],
        closing: ExitStack,
    ) -> None:
        self._run = run
        self._file = file
        self._first = first
        self._left = bounds[1] - bounds[0] - len(first)
        self._closing = closing
        self.offset: int = bounds[0]
        self.end: int = bounds[1]
        self.distortion: str = ""
        """Empty, since no proxy is in between."""
        self.is_whole: bool = False
        """False, since the stream has the requested range only."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes.

        :raises MirrorDamaged: if the file has become shorter, or can't be read.
        """
        if self._first:
            yield self._first

        while self._left:
            chunk = await self._run(partial(self._read, min(_READ_BYTES, self._left)))
            self._left -= len(chunk)
            yield chunk

    def _read(self, size: int) -> bytes:
        return _read(self._file, size)

    def __enter__(self) -> FileStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    file: BinaryIO
    first: bytes
    closing: ExitStack


class LayoutPuller:
    """The blobs and manifests of a layout, called `name` in messages. Nothing is read twice but what failed.

    `attempts` are those of transfers: the other side of one may fail.
    """

    def __init__(self, files: LayoutFiles, name: str, attempts: Callable[[str], Attempts]) -> None:
        self._files = files
        self._name = name
        self._attempts = attempts
        self._limiter = anyio.CapacityLimiter(_THREADS)

    def attempts(self, what: str, *, brief: bool = False) -> Attempts:
        """Return the attempts of one transfer; see `BlobSource.attempts`."""
        return self._attempts(what)

    async def root(self, reference: Reference) -> tuple[Node, bool]:
        """Return the manifest of a pinned reference; it can't have moved."""
        assert reference.digest is not None
        return await self.manifest(reference.repository, reference.digest), False

    async def manifest(self, repository: Repository, digest: Digest, *, expected: Descriptor | None = None) -> Node:
        """Return the manifest or index with `digest`; `expected` is its descriptor in an index.

        :raises MirrorDamaged: if it is missing, damaged, or can't be read.
        :raises NotFound: if it is missing, and `expected` is of another type: it may be a blob of any kind.
        :raises UnsupportedContent: if it can't be mirrored, or is not of the expected type and size.
        """
        content = await self._read(digest, manifest.MAX_MANIFEST_BYTES)
        if content is None:
            if expected is not None and not expected.is_manifest:
                raise NotFound(f"{digest} is not in {self._name}")

            raise damaged(f"the manifest {digest} is missing in {self._name}")

        if expected is None or expected.is_manifest:
            node: Node = manifest.parse_stored(content, digest)
        else:
            node = manifest.parse_child(content, "", expected)

        if expected is not None:
            check_expected(node.descriptor, expected, repository)

        return node

    async def blob(self, repository: Repository, blob: Descriptor) -> bytes:
        """Return a small blob, such as a config, whole and verified.

        :raises MirrorDamaged: if it is missing, damaged, or can't be read.
        """
        content = await self._read(blob.digest, blob.size)
        if content is None:
            raise damaged(f"the blob {blob.digest} is missing in {self._name}, or has another size")

        return content

    async def referrers(self, repository: Repository, subject: Digest) -> None:
        """Return None: a layout has tags for lists of referrers instead."""

    async def open(self, request: BlobRequest) -> FileStream:
        """Open the stream of the bytes of a blob.

        :raises MirrorDamaged: if the blob is missing, can't be read, has another size, or, if it is to be read again
            because of wrong bytes (`fresh`), is damaged.
        """
        blob = request.blob
        if request.fresh:
            raise damaged(f"the blob {blob.digest} in {self._name} is damaged: its bytes have another digest")

        found = await self._in_thread(partial(self._open, blob, *request.bounds))
        return FileStream(self._in_thread, found.file, found.first, request.bounds, found.closing)

    def _open(self, blob: Descriptor, offset: int, end: int) -> _Opened:
        """Open a blob and read its first bytes: most blobs are small, and a switch to a thread takes its time."""
        with naming(f"the blob {blob.digest} in {self._name}"), ExitStack() as stack:
            place = self._files.locate(blob_key(blob.digest))
            if place is None:
                raise damaged(f"the blob {blob.digest} is missing in {self._name}")

            if place.size != blob.size:
                raise damaged(
                    f"the blob {blob.digest} in {self._name} has {place.size:,} bytes instead of {blob.size:,}"
                )

            file = stack.enter_context(opened(place, offset))
            first = _read(file, min(_READ_BYTES, end - offset)) if end > offset else b""
            return _Opened(file, first, stack.pop_all())

    async def _read(self, digest: Digest, limit: int) -> bytes | None:
        return await self._in_thread(partial(read_content, self._files, digest, limit))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def _read(file: BinaryIO, size: int) -> bytes:
    with naming("a blob"):
        chunk = file.read(size)

    if len(chunk) < size:
        raise damaged(f"{file.name} ends too early")

    return chunk
