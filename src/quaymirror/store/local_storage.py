"""The storage of a layout in a local directory."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio
import anyio.to_thread

from ..errors import MirrorDamaged, Phase, StoreError, TargetRefused, from_os_error
from ..oci import Descriptor, Digest
from ..untrusted import InvalidDocument
from . import documents, fsops, leases, promises
from .executor import ExecutorPool
from .fsops import Fsync
from .ingest import BATCH_BYTES, BlobPaths, Ingest
from .lock import READERS, WRITERS, Lock, Patience, locked, patiently_locked, reading
from .storage import BLOBS, MARKER, ObjectInfo, Space, WantsKey, blob_key, every

T = TypeVar("T")

_THREADS = 8
# An interrupted transfer that old is not continued any more.
_STALE_SECONDS = 7 * 86_400.0
# Files that an empty directory may have: a mount point's own, and what a crash leaves in the first second.
_NOT_FOREIGN = frozenset({"lost+found", ".oci-layout.new"})


class LocalStorage:
    """A layout in a directory of this machine; see `Storage`."""

    def __init__(self, root: Path, *, fsync: Fsync = Fsync.ALWAYS) -> None:
        self.root = root
        self._prefix = f"{root}/"
        self._own = root / ".quaymirror"
        self._ingest = self._own / "ingest"
        self._fsync = fsync
        # Its own threads: those of the default limiter may all be waiting for a call that needs the disk.
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._pool = ExecutorPool(_THREADS)
        # Called before anything is written: another directory may be in the place of this one.
        self._check_place: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return str(self.root)

    def path(self, digest: Digest) -> Path:
        """Return the path of the blob with `digest`, which need not exist."""
        return Path(self._prefix + blob_key(digest))

    def exists(self) -> bool:
        """Return True if the directory is a layout, False if it is empty or missing."""
        with fsops.local_errors("read", self.root):
            if not self.root.exists():
                return False

            if not self.root.is_dir():
                hint = "name one that is empty, missing, or an OCI image layout"
                raise TargetRefused(f"{self.root} is not a directory: {hint}")

            marker = self.root / MARKER
            if marker.is_file():
                try:
                    documents.check_oci_layout(marker.read_bytes())
                except InvalidDocument as error:
                    raise TargetRefused(f"{marker}: {error}") from None

                return True

            foreign = sorted(entry.name for entry in self.root.iterdir() if entry.name not in _NOT_FOREIGN)

        if foreign:
            raise TargetRefused(
                f"{self.root} contains other files ({foreign[0]!r}) and is not an OCI image layout: "
                "name another directory"
            )

        return False

    def create(self) -> None:
        """Create the directories, and remove interrupted transfers that are not continued any more."""
        fsops.make_directory(self.root / BLOBS / "sha256")
        fsops.make_directory(self._ingest)
        fsops.make_directory(self._own / "snapshots")
        for partial in promises.abandoned(self, older_than=_STALE_SECONDS):
            self.delete(partial.key)

    def info(self, key: str) -> ObjectInfo | None:
        """Return the properties of a regular file, None if it does not exist."""
        path = self._prefix + key  # no Path: this is called often, and making one takes longer than the call of lstat
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_os_error(error, "read", path, kind=StoreError, phase=Phase.STORE) from error

        if not stat.S_ISREG(status.st_mode):
            raise MirrorDamaged(f"{path} is not a regular file: remove it, it does not belong there")

        return ObjectInfo(key, status.st_size, status.st_mtime)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of a file; something else is an error, and not waited for."""
        return fsops.read_file(Path(self._prefix + key), limit)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading."""
        return fsops.open_for_reading(Path(self._prefix + key))

    def put(self, key: str, content: bytes) -> bool:
        """Create a file if it does not exist."""
        if os.path.lexists(self._prefix + key):
            return False

        self.replace(key, content)
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Replace a file by another one under its name."""
        self._check_place()
        path = Path(self._prefix + key)
        if not fsops.exists(path.parent):
            fsops.make_directory(path.parent)

        fsops.replace_file(path, content, sync=self._fsync is not Fsync.NEVER)

    def list_objects(self, prefix: str, *, wants: WantsKey = every) -> Iterator[ObjectInfo]:
        """Iterate over the files in the directories below `prefix`, which need not exist.

        Of files that are not wanted, only the names are read.
        """
        if not fsops.exists(self.root / prefix):
            return

        with fsops.local_errors("read", self.root / prefix), os.scandir(self._prefix + prefix) as entries:
            directories = sorted(entry.name for entry in entries if entry.is_dir())

        for name in directories:
            with fsops.local_errors("read", self.root / prefix / name):
                yield from self._files(f"{prefix}/{name}", wants)

    def delete(self, key: str) -> None:
        """Remove a file if it exists; in a checkout only if that is not a link to another directory."""
        self._check_place()
        path = Path(self._prefix + key)
        if path.parent.parent != self._own / "snapshots" or not path.parent.is_symlink():
            fsops.remove(path)

    @asynccontextmanager
    async def sink(self, node: Descriptor) -> AsyncIterator[Ingest]:
        """Open the file that a blob is written to, with what an earlier run left of it.

        A part that is not committed stays for the next attempt, unless it is small.
        """
        self._check_place()
        partial = self._partial(node)
        paths = BlobPaths(partial, self.path(node.digest), syncs=self._fsync is Fsync.ALWAYS, check=self._check_place)
        is_small = node.size <= BATCH_BYTES
        ingest = Ingest(node, paths, self._pool.run if is_small else self.in_thread)
        try:
            if not is_small:
                await self.in_thread(ingest.resume)

            yield ingest
        finally:
            ingest.close()

    def partials(self, *, older_than: float = 0.0) -> list[ObjectInfo]:
        """Return the files of interrupted transfers."""
        before = time.time() - older_than
        with fsops.local_errors("read", self._ingest):
            files = [*self._files(".quaymirror/ingest")] if self._ingest.is_dir() else []

        return [file for file in files if file.key.endswith((".part", ".ranges")) and file.modified <= before]

    def persist(self, node: Descriptor) -> None:
        """Sync a file that another program wrote, if files are synced at all."""
        if self._fsync is Fsync.ALWAYS:
            fsops.sync_file(self.path(node.digest))

    def flush(self, digests: Collection[Digest]) -> None:
        """Sync the directories of the blobs, or the file system."""
        self._check_place()
        match self._fsync:
            case Fsync.ALWAYS:
                for algorithm in {digest.algorithm for digest in digests}:
                    fsops.sync_directory(self.root / BLOBS / algorithm)
            case Fsync.BATCH:
                fsops.sync_file_system(self.root)
            case Fsync.NEVER:
                pass

    def free_space(self) -> Space:
        """Return the space of the file system; its unit is the size of a block."""
        return Space(*fsops.free_bytes(self.root))

    def stored_bytes(self, node: Descriptor) -> int:
        """Return the size of a blob if its file exists, otherwise what its partial file occupies."""
        info = self.info(blob_key(node.digest))
        if info is not None and info.size == node.size:
            return node.size

        if node.size <= BATCH_BYTES:
            return 0  # a small blob starts again

        try:
            status = self._partial(node).lstat()
        except FileNotFoundError:
            return 0

        return min(status.st_size, status.st_blocks * 512)  # the file may have holes

    @asynccontextmanager
    async def writing(self, patience: Patience | None) -> AsyncIterator[_WriterLock]:
        """Hold both locks of the directory, which is created: the writers' alone, the readers' shared."""
        if not self.exists():
            fsops.make_directory(self.root)
            fsops.replace_file(self.root / MARKER, documents.OCI_LAYOUT)

        fsops.make_directory(self._own)
        async with patiently_locked(self._own / WRITERS, patience, directory=self.root) as directory:
            assert directory is not None
            self._check_place = directory.check
            with locked(self._own / READERS, shared=True) as readers:
                yield _WriterLock(readers, self._own / leases.DIRECTORY)

    def leasing(self) -> AbstractContextManager[leases.FileLease]:
        """Hold a lease in a file."""
        return leases.leasing(self._own / leases.DIRECTORY)

    def leased(self) -> set[Digest]:
        """Return the images that leases of living processes list."""
        return leases.leased(self._own / leases.DIRECTORY)

    def reading(self) -> AbstractContextManager[None]:
        """Hold the readers' lock, shared."""
        return reading(self._own)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the result of a blocking function."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def _partial(self, node: Descriptor) -> Path:
        return self._ingest / f"{node.digest.algorithm}-{node.digest.encoded}.part"

    def _files(self, prefix: str, wants: WantsKey = every) -> Iterator[ObjectInfo]:
        """Iterate over whatever is in a directory, except entries that have just been removed or renamed."""
        with os.scandir(self._prefix + prefix) as entries:
            keys = [f"{prefix}/{entry.name}" for entry in entries]

        for key in sorted(key for key in keys if wants(key)):
            with suppress(FileNotFoundError):
                status = os.lstat(self._prefix + key)
                yield ObjectInfo(key, status.st_size, status.st_mtime)


class _WriterLock:
    """The lock of the only writer; see `ExclusiveLock`."""

    def __init__(self, readers: Lock, directory: Path) -> None:
        self._readers = readers
        self._directory = directory

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep readers out, and leases as they are."""
        with self._readers.alone(), leases.unchanged(self._directory):
            yield
