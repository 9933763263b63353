"""The storage of a layout in an object store.

Objects are atomic, and durable when the request is answered, so blobs, manifests and the index in this order need no
more. The state and the locks of this machine are in a local directory, `root`; a copy of the state is in the store.

A run that holds the local lock knows all objects if its session was the last one, and lists them otherwise. It takes
the lock in the store when it writes for the first time: a run that finds nothing new only looks at it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import anyio
import anyio.to_thread

from ..errors import LockHeld, StoreError, TargetRefused
from ..oci import Descriptor, Digest
from ..tasks import background
from ..untrusted import InvalidDocument
from . import documents, fsops, leases
from .bucket_cache import BucketCache
from .bucket_lock import RENEW_SECONDS, BucketLock, LockRecord
from .bucket_sink import BUDGET_BYTES, BucketSink
from .buffers import BufferPool
from .lock import READERS, WRITERS, Lock, Patience, locked, patiently_locked, reading
from .objects import Conflict, Objects
from .storage import BLOBS, INDEX, MARKER, ObjectInfo, WantsKey, blob_key, every

_OWN = ".quaymirror"
_STATE = f"{_OWN}/state.db"
_SNAPSHOTS = f"{_OWN}/snapshots/"
# Objects that are asked for one by one before all are listed.
_SINGLE = 32

_pool = BufferPool(BUDGET_BYTES)


class BucketStorage:
    """A layout in an object store; see `Storage`. `root` is the local directory of its state."""

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        locks: bool = True,
        endpoint: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = root / _OWN
        self._objects = objects
        self._locks = locks
        self._endpoint = endpoint or "default"
        self._clock = clock
        self._new_lock: Callable[[str], BucketLock] = partial(
            BucketLock, objects, locks=locks, clock=clock, monotonic=monotonic
        )
        self._cache = BucketCache(self._own / "cache")
        # Of the run that writes here; None: this is for reading.
        self._lock: BucketLock | None = None
        self._is_changed = self._is_doubtful = False
        # For reading: the objects by their keys once they were listed.
        self._asked = 0
        self._listed: dict[str, ObjectInfo] | None = None

    def __str__(self) -> str:
        return str(self._objects)

    def path(self, digest: Digest) -> None:
        """Return None: blobs are no files."""
        return

    def exists(self) -> bool:
        """Return True if a layout is stored below the prefix, False if nothing is."""
        marker = self.read(MARKER)
        if marker is not None:
            try:
                documents.check_oci_layout(marker)
            except InvalidDocument as error:
                raise TargetRefused(f"{self}/{MARKER}: {error}") from None

            return True

        listed = self._cache.list("") if self._lock is not None else self._objects.list()
        foreign = next((each.key for each in listed if not each.key.startswith(f"{_OWN}/")), None)
        if foreign is not None:
            raise TargetRefused(
                f"{self} contains other objects ({foreign[:100]!r}) and is not an OCI image layout: name another prefix"
            )

        return False

    def create(self) -> None:
        """Do nothing: directories don't exist, and interrupted uploads are not visible."""

    def info(self, key: str) -> ObjectInfo | None:
        """Return the properties of an object, None if it does not exist."""
        if self._lock is not None:
            return self._cache.info(key)

        if key.startswith(f"{BLOBS}/") and (known := self._known().get(key)) is not None:
            return known

        found = self._objects.head(key)
        return None if found is None else ObjectInfo(key, found.size, found.modified)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of an object, at most `limit` bytes, None if it does not exist."""
        if self._lock is None:
            found = self._objects.get(key, limit)
            return None if found is None else found[0]

        known = self._cache.info(key)
        if known is None:
            return None

        content = self._cache.read(key)
        if content is None:
            found = self._objects.get(key, limit)
            if found is None:
                return None

            content = found[0]
            if len(content) == known.size:
                self._cache.keep(key, content)

        return content if limit < 0 else content[:limit]

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object for reading."""
        with self._objects.open(key) as file:
            yield cast("BinaryIO", file)

    def put(self, key: str, content: bytes) -> bool:
        """Create an object if it does not exist."""
        self._ensure_lock()
        try:
            tag = self._objects.put(key, content, tag="" if self._locks else None)
        except Conflict:
            return False

        self._stored(key, content, tag)
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Replace or create an object; the index only over the version that this run knows.

        :raises StoreError: if another program has changed the index.
        """
        self._ensure_lock()
        is_guarded = key == INDEX and self._lock is not None and self._locks
        try:
            tag = self._objects.put(key, content, tag=self._cache.tag(key) if is_guarded else None)
        except Conflict:
            # The request was repeated after an answer got lost?
            found = self._objects.get(key)
            if found is None or found[0] != content:
                self._is_doubtful = True
                raise StoreError(
                    f"{self}/{key} was changed by another program during the run: it is not overwritten; run it again"
                ) from None

            tag = found[1]

        self._stored(key, content, tag)
        self._is_changed = self._is_changed or key == INDEX or key.startswith(_SNAPSHOTS)

    def list_objects(self, prefix: str, *, wants: WantsKey = every) -> Iterator[ObjectInfo]:
        """Iterate over the objects below `prefix`, sorted by key, if `wants` returns True."""
        if self._lock is not None:
            yield from (info for info in self._cache.list(prefix) if wants(info.key))
            return

        found = (
            ObjectInfo(each.key, each.size, each.modified) for each in self._objects.list(prefix) if wants(each.key)
        )
        yield from sorted(found, key=lambda each: each.key)

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        if self._lock is not None and self._cache.info(key) is None:
            return

        self._ensure_lock()
        # First: if the answer gets lost, the object may be gone.
        self._cache.remove(key)
        self._objects.delete(key)

    @asynccontextmanager
    async def sink(self, node: Descriptor) -> AsyncIterator[BucketSink]:
        """Open the upload of a blob. One that is not committed leaves nothing behind, and starts again."""
        key = blob_key(node.digest)
        sink = BucketSink(self._objects, key, node, _pool, ready=self._ensure_lock, is_ready=lambda: self._holds_lock)
        try:
            yield sink
        finally:
            with anyio.CancelScope(shield=True):
                await sink.close()

            if sink.committed:
                self._cache.add(key, node.size, self._clock(), sink.tag)
                if node.is_manifest and sink.content is not None:
                    await anyio.to_thread.run_sync(self._cache.keep, key, sink.content)

    def partials(self, *, older_than: float = 0.0) -> list[ObjectInfo]:
        """Return nothing: interrupted uploads are not visible, and a rule of the bucket deletes them."""
        return []

    def persist(self, node: Descriptor) -> None:
        """Do nothing: objects are durable."""

    def flush(self, digests: Collection[Digest]) -> None:
        """Do nothing: objects are durable."""

    def free_space(self) -> None:
        """Return None: the space is not limited."""
        return

    def stored_bytes(self, node: Descriptor) -> int:
        """Return the size of a blob if it is stored, otherwise 0."""
        info = self.info(blob_key(node.digest))
        return node.size if info is not None and info.size == node.size else 0

    @asynccontextmanager
    async def writing(self, patience: Patience | None) -> AsyncIterator[_WriterLock]:
        """Hold the local locks, and the one of the store from the first change on."""
        fsops.make_directory(self._own)
        async with patiently_locked(self._own / WRITERS, patience):
            with locked(self._own / READERS, shared=True) as readers:
                lock = self._new_lock(await anyio.to_thread.run_sync(_writer_name, self._own))
                await self._look(lock, patience)
                self._lock = lock
                try:
                    await anyio.to_thread.run_sync(self._begin)
                    async with background(partial(_renew_regularly, lock)):
                        yield _WriterLock(readers, self._own / leases.DIRECTORY)
                except BaseException:
                    with anyio.CancelScope(shield=True), suppress(StoreError, LockHeld):
                        await anyio.to_thread.run_sync(self._end, lock)

                    raise
                else:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._end, lock)
                finally:
                    self._lock, self._listed, self._asked = None, None, 0

    def leasing(self) -> AbstractContextManager[leases.FileLease]:
        """Hold a lease in a local file: it counts for runs with the same state directory."""
        return leases.leasing(self._own / leases.DIRECTORY)

    def leased(self) -> set[Digest]:
        """Return the images that leases of processes of this machine list."""
        return leases.leased(self._own / leases.DIRECTORY)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the local lock of readers, and see the objects as they are from now on."""
        fsops.make_directory(self._own)
        with reading(self._own):
            self._listed, self._asked = None, _SINGLE
            yield

    def restore_state(self) -> bool:
        """Fetch the copy of the state if this machine has none; return True if it was fetched.

        :raises StoreError: if the store or the disk fails.
        """
        path = self._own / "state.db"
        return not fsops.exists(path) and self._fetch_state(path)

    async def _look(self, lock: BucketLock, patience: Patience | None) -> None:
        while True:
            try:
                # It only reads: an interrupted run does not wait for a store that does not answer.
                await anyio.to_thread.run_sync(lock.look, abandon_on_cancel=True)
                return
            except LockHeld as error:
                if patience is None:
                    raise

                await patience(error)

    def _begin(self) -> None:
        """Learn which objects are stored, and get the state of the last writer; create an empty layout."""
        assert self._lock is not None
        cache, found = self._cache, self._lock.found
        cache.load()
        if not found.session or found.session != cache.session or found.writer:
            cache.replace(self._objects.list())

        self._update_state(found)
        self._is_changed = self._is_doubtful = False
        if not self.exists():
            self.put(MARKER, documents.OCI_LAYOUT)

    def _update_state(self, found: LockRecord) -> None:
        """Fetch the copy of the state if it is newer than the one of this machine."""
        cache, path = self._cache, self._own / "state.db"
        if found.copy and (found.copy != cache.copy or not fsops.exists(path)) and self._fetch_state(path):
            cache.copy = found.copy

    def _end(self, lock: BucketLock) -> None:
        """Store a copy of the state if the set of images changed, release the lock, and remember the objects."""
        if lock.found.writer:
            self._ensure_lock()  # left behind by a run that was killed

        if not lock.is_held:
            if lock.found.session and self._cache.session != lock.found.session and not self._is_doubtful:
                self._cache.save(lock.found.session)

            return

        session = lock.session
        lock.release(copy=self._copy_state(session))
        self._cache.probed = self._endpoint if self._locks else ""
        self._cache.save("" if self._is_doubtful else session)

    def _copy_state(self, session: str) -> str:
        """Store a copy of the state if the set of images changed; return `session` then, otherwise ""."""
        path = self._own / "state.db"
        if not (self._is_changed and fsops.exists(path)) or fsops.exists(path.with_name("state.db-journal")):
            return ""

        self._ensure_lock()
        self._objects.put(_STATE, path)
        self._cache.copy = session
        return session

    def forget(self) -> None:
        """Forget what this machine knows of the objects: the next run lists them."""
        self._cache.forget()

    def _fetch_state(self, path: Path) -> bool:
        fsops.make_directory(path.parent)
        temporary = path.with_name(f".state.db.{os.getpid()}.fetched")
        if self._objects.head(_STATE) is None:
            return False

        with fsops.local_errors("write", temporary), temporary.open("wb") as file:
            for chunk in self._objects.stream(_STATE, 0):
                file.write(chunk)

            file.flush()
            os.fsync(file.fileno())

        with fsops.local_errors("write", path):
            # A journal belongs to the database that is replaced.
            path.with_name("state.db-journal").unlink(missing_ok=True)
            temporary.replace(path)

        return True

    def _ensure_lock(self) -> None:
        if self._lock is None:
            self._cache.forget()
        else:
            self._lock.take(is_probed=self._cache.probed == self._endpoint)

    @property
    def _holds_lock(self) -> bool:
        return self._lock is not None and self._lock.is_current

    def _stored(self, key: str, content: bytes, tag: str) -> None:
        self._cache.add(key, len(content), self._clock(), tag)
        if self._lock is not None:
            self._cache.keep(key, content)

    def _known(self) -> dict[str, ObjectInfo]:
        """Return the blobs as they were listed: for many of them that takes less than a request for each."""
        if self._listed is None:
            self._asked += 1
            if self._asked <= _SINGLE:
                return {}

            self._listed = {each.key: each for each in self.list_objects(BLOBS)}

        return self._listed


class _WriterLock:
    """The lock of the only writer; see `ExclusiveLock`."""

    def __init__(self, readers: Lock, directory: Path) -> None:
        self._readers = readers
        self._directory = directory

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep readers of this machine out, and their leases as they are."""
        with self._readers.alone(), leases.unchanged(self._directory):
            yield


async def _renew_regularly(lock: BucketLock) -> None:
    while True:
        await anyio.sleep(RENEW_SECONDS)
        await anyio.to_thread.run_sync(lock.renew)


def _writer_name(directory: Path) -> str:
    """Return the name of this state directory, which is made once."""
    path = directory / "writer"
    name = (fsops.read_file(path, 64) or b"").decode("ascii", "replace").strip()
    if not name:
        name = secrets.token_hex(16)
        fsops.replace_file(path, name.encode())

    return name
