"""An OCI image layout as a target: one directory for all images (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio

from ..errors import MirrorDamaged, QuaymirrorError, Scope, StoreError, TargetRefused
from ..events import Notice, Observer, ignore
from ..oci import Descriptor, Digest, Reference
from ..oci.manifest import MAX_MANIFEST_BYTES
from . import fsops, index
from .blobs import BlobStore
from .executor import SerialExecutor
from .fsops import Fsync
from .ingest import Ingest
from .lock import READERS, WRITERS, Lock, Patience, locked, patiently_locked
from .records import ImageRecord
from .state import State

T = TypeVar("T")

# index.json is written whole: for thousands of images that must not happen for each of them.
_CHECKPOINT_IMAGES = 500
_CHECKPOINT_SECONDS = 30.0
# Sizes are what manifests say: one that claims more than there is room for must not end the run of all others. That
# many images in a row, none of which would fit by itself, mean that it is the disk.
_MISFITS = 3

# What an empty directory may hold: a mount point's own, and what a crash can leave of our first second.
_NOT_FOREIGN = frozenset({"lost+found", ".oci-layout.new"})


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a layout is written to: what `fsync` promises, whether blobs have to fit in before they come, and what to do
    while another run writes (None: fail)."""

    fsync: Fsync = Fsync.ALWAYS
    checks_space: bool = True
    patience: Patience | None = None


_DEFAULTS = WriteOptions()


@dataclass(slots=True, eq=False)
class _Commit:
    record: ImageRecord
    done: bool = False
    error: QuaymirrorError | None = None


class OCILayout:
    """A layout that a run writes to. What `commit` returned for is durable, named, and complete."""

    def __init__(
        self,
        root: Path,
        state: State,
        *,
        observer: Observer = ignore,
        read_only: bool = False,
        options: WriteOptions = _DEFAULTS,
        readers: Lock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self._readers = readers
        self._blobs = BlobStore(root, fsync=options.fsync)
        self._state = state
        self._observer = observer
        self._read_only = read_only
        self._options = options
        self._clock = clock
        self._serial = SerialExecutor()
        self._commit_lock = anyio.Lock()
        self._uncommitted: list[_Commit] = []
        self._since_checkpoint = 0
        self._last_checkpoint = clock()
        # Verified in this run and in no committed image yet: the state can't know of these.
        self._fresh: set[Digest] = set()
        # What the disk still has to take for the images in flight.
        self._expected: dict[Digest, Descriptor] = {}
        # Blobs whose transfer has ended; noted by the loop for the thread that minds the room.
        self._settled: deque[Digest] = deque()
        self._misfits = 0
        # Registries whose images others take the place of.
        self._replaced: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, root: Path, *, observer: Observer = ignore, options: WriteOptions = _DEFAULTS
    ) -> AsyncIterator[Self]:
        """Open the layout at `root` for writing, creating it; its index is up to date when the context ends.

        :raises TargetRefused: when something else is at `root`.
        :raises LockHeld: when another run writes to it.
        :raises StoreError: when the disk refuses.
        """
        async with AsyncExitStack() as stack:
            readers = await stack.enter_async_context(_locked_layout(root, options.patience))
            state, notice = State.open(root / ".quaymirror" / "state.db", sync=options.fsync is not Fsync.NEVER)
            stack.callback(state.close)
            if notice:
                observer(Notice(notice))

            layout = cls(root, state, observer=observer, options=options, readers=readers)
            # What a crash kept from the index is in the state: readers get it first thing.
            await layout._serial.run(layout._checkpoint)
            try:
                yield layout
            finally:
                with anyio.CancelScope(shield=True):
                    await layout._serial.run(layout._checkpoint)

    @classmethod
    @asynccontextmanager
    async def inspect(cls, root: Path) -> AsyncIterator[Self]:
        """Open the layout at `root` for looking only: nothing is written, and nothing has to be there.

        :raises TargetRefused: when something else is at `root`.
        """
        check_root(root)
        path = root / ".quaymirror" / "state.db"
        state, _ = State.open(path, read_only=True) if path.exists() else (State.empty(), None)
        try:
            yield cls(root, state, read_only=True)
        finally:
            state.close()

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Tell whether `reference`, which is pinned, is here complete under its name, for the same `platforms`."""
        return await self._serial.run(self._holds, reference, platforms)

    async def missing_content(self, reference: Reference, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of `nodes` that have to be fetched. What no run has verified so far is read and verified, and
        removed when it is not what its name says.

        :raises MirrorDamaged: when something that is no file stands in a blob's place.
        :raises StoreError: when what is missing for this, or for it and the other images in flight, does not fit on the
            disk; the former is this image's trouble, the latter the run's.
        """
        return await self._serial.run(self._missing, nodes)

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Tell whether a node that was missing is here by now: what stood there wrongly is gone since `missing`.

        :raises MirrorDamaged: when something that is no file stands in its place.
        """
        return self._blobs.has(node)

    def blob_file(self, node: Descriptor) -> Path | None:
        """Return where the content of `node` is, as far as its name and size say, None if it is not here."""
        try:
            return self._blobs.path(node.digest) if self._blobs.has(node) else None
        except MirrorDamaged:
            return None  # for our own run to tell, not for who wants to copy it

    def dedup_key(self, reference: Reference, node: Descriptor) -> Digest:
        """All images share their blobs here."""
        return node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Return the content of a manifest that is here, None if it is not, or not in order."""
        if not self._blobs.exists(digest):
            return None

        return await self._blobs.in_thread(self._blobs.read, digest, MAX_MANIFEST_BYTES)

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[Ingest]:
        """Hand out the place to write a blob to; see `BlobStore.ingest`."""
        try:
            async with self._blobs.ingest(node) as ingest:
                yield ingest
                if ingest.committed:
                    self._fresh.add(node.digest)
        finally:
            # What came to nothing keeps no room from others: it may never have been as large as its image said.
            self._settled.append(node.digest)

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest.

        :raises StoreError: when the disk refuses.
        """
        async with self.sink(reference, node) as sink:
            if sink.offset:
                await sink.reset()

            await sink.write(content)
            await sink.commit()

    async def commit(self, record: ImageRecord) -> None:
        """Make an image, whose contents are all here, durable and give it its name.

        Images that finish at about the same time share the syncs and the transaction.

        :raises StoreError: when the disk refuses.
        """
        mine = _Commit(record)
        self._uncommitted.append(mine)
        async with self._commit_lock:
            if not mine.done:
                group, self._uncommitted = self._uncommitted, []
                with anyio.CancelScope(shield=True):
                    await self._serial.run(self._commit_group, group)

        if mine.error is not None:
            raise mine.error

    async def use(self, function: Callable[[Path, State], T]) -> T:
        """Return what `function`, which may block, makes of the directory and its state, between two commits.

        :raises StoreError: when the disk fails.
        """
        return await self._serial.run(function, self.root, self._state)

    def alone(self) -> AbstractContextManager[None]:
        """Let nobody read the blobs while the context lasts.

        :raises LockHeld: when somebody does.
        """
        assert self._readers is not None, "open for writing"
        return self._readers.alone()

    def _holds(self, reference: Reference, platforms: str) -> bool:
        record = self._state.image(reference.name)
        if record is None:
            return False

        self._tell_of_another(record, reference)
        return (record.source, record.registry, record.platforms) == (
            reference.digest,
            reference.repository.registry,
            platforms,
        ) and all(self._blobs.has(node) for node in record.contents)

    def _tell_of_another(self, record: ImageRecord, reference: Reference) -> None:
        """Say it once when images take the place of others: names here are without a registry."""
        ours = reference.repository.registry
        if record.registry != ours and record.registry not in self._replaced:
            self._replaced.add(record.registry)
            self._observer(
                Notice(
                    f"{self.root} has images from {record.registry}, {record.name} among them: "
                    f"those from {ours} take their place where they have the same names"
                )
            )

    def _missing(self, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        verified = self._state.verified(node.digest for node in nodes)
        missing = [node for node in nodes if not self._is_here(node, verified)]
        if self._options.checks_space and not self._read_only:
            self._expect(missing)

        return missing

    def _expect(self, nodes: Sequence[Descriptor]) -> None:
        """Refuse what will not fit before any of it comes: an early end is worth more than a full disk."""
        free, unit = fsops.free_bytes(self.root)
        while self._settled:
            self._expected.pop(self._settled.popleft(), None)

        expected = self._expected | {node.digest: node for node in nodes}
        # What is there of it is looked at only where that matters: it takes two looks at the disk for each.
        if sum(fsops.in_blocks(node.size, unit) for node in expected.values()) <= free:
            self._expected, self._misfits = expected, 0
            return

        alone = sum(self._blobs.remaining(node, unit) for node in nodes)
        self._misfits = self._misfits + 1 if alone > free else 0
        if 0 < self._misfits < _MISFITS:
            raise StoreError(
                f"it needs {alone:,} bytes more, and the disk of {self.root} has {free:,}", scope=Scope.IMAGE
            )

        remaining = {digest: self._blobs.remaining(node, unit) for digest, node in expected.items()}
        self._expected = {digest: node for digest, node in expected.items() if remaining[digest]}
        needed = sum(remaining.values())
        if needed > free:
            raise StoreError(
                f"{self.root} needs {needed:,} bytes more for the images in flight, and the disk has {free:,}: "
                "make room, or go on until it is full with --no-space-check"
            )

    def _is_here(self, node: Descriptor, verified: set[Digest]) -> bool:
        if node.digest in verified or node.digest in self._fresh:
            return self._blobs.has(node)

        # Nothing is removed where nothing stood: the blob may be landing from another thread at this very moment.
        if not self._blobs.has(node):
            return False

        # A crash before the commit, or another tool: what no state vouches for is read once.
        if self._blobs.adopt(node):
            self._fresh.add(node.digest)
            return True

        # What stands here wrongly has been seen by nobody before: calls of this method follow one another, and no
        # transfer of a blob begins before one of them called it missing.
        if not self._read_only:
            self._blobs.remove(node.digest)

        return False

    def _commit_group(self, group: Sequence[_Commit]) -> None:
        for commit in group:
            commit.error = self._incomplete(commit.record)

        whole = [commit for commit in group if commit.error is None]
        try:
            self._make_durable([commit.record for commit in whole])
        except QuaymirrorError as error:
            for commit in whole:
                commit.error = error

        for commit in group:
            commit.done = True

    def _incomplete(self, record: ImageRecord) -> StoreError | None:
        """The last look before an image counts as mirrored: is everything it needs really here?"""
        gone = next((node for node in record.contents if not self._blobs.has(node)), None)
        if gone is None:
            return None

        return StoreError(f"{record.name}: {gone.digest} is gone from {self.root} again", scope=Scope.IMAGE)

    def _make_durable(self, records: Sequence[ImageRecord]) -> None:
        digests = {node.digest for record in records for node in record.contents}
        match self._options.fsync:
            case Fsync.ALWAYS:
                for directory in {self._blobs.directory(digest) for digest in digests}:
                    fsops.sync_directory(directory)
            case Fsync.BATCH:
                fsops.sync_file_system(self.root)
            case Fsync.NEVER:
                pass

        self._state.commit(records)
        self._fresh -= digests
        self._since_checkpoint += len(records)
        if self._since_checkpoint >= _CHECKPOINT_IMAGES or self._clock() - self._last_checkpoint >= _CHECKPOINT_SECONDS:
            self._checkpoint()

    def _checkpoint(self) -> None:
        path = self.root / "index.json"
        present = read_index(path, self._observer)
        content = index.project(present[1], self._state.images())
        # Not a byte is touched when nothing changed: who copies the mirror on goes by modification times.
        if content != present[0]:
            fsops.replace_file(path, content, sync=self._options.fsync is not Fsync.NEVER)

        self._since_checkpoint = 0
        self._last_checkpoint = self._clock()


def check_root(root: Path) -> bool:
    """Tell whether a layout is at `root` already; False: nothing is there, or an empty directory.

    :raises TargetRefused: when something else is there.
    :raises StoreError: when it can't be read.
    """
    with fsops.local_errors("read", root):
        if not root.exists():
            return False

        if not root.is_dir():
            raise TargetRefused(f"{root} is not a directory: name one that is empty, missing, or an OCI image layout")

        marker = root / "oci-layout"
        if marker.is_file():
            try:
                index.check_oci_layout(marker.read_bytes())
            except index.Unreadable as error:
                raise TargetRefused(f"{marker}: {error}") from None

            return True

        foreign = sorted(entry.name for entry in root.iterdir() if entry.name not in _NOT_FOREIGN)
        if foreign:
            raise TargetRefused(
                f"{root} holds other things ({foreign[0]!r}) and is no OCI image layout: name another directory"
            )

        return False


@asynccontextmanager
async def _locked_layout(root: Path, patience: Patience | None) -> AsyncIterator[Lock]:
    if not check_root(root):
        fsops.make_directory(root)
        fsops.replace_file(root / "oci-layout", index.OCI_LAYOUT)

    fsops.make_directory(root / ".quaymirror")
    async with patiently_locked(root / ".quaymirror" / WRITERS, patience):
        with locked(root / ".quaymirror" / READERS, shared=True) as readers:
            BlobStore(root).prepare()
            yield readers


def read_index(path: Path, observer: Observer) -> tuple[bytes | None, dict[str, Any] | None]:
    """Return the index as it is: others may have written to it, too. A damaged one is set aside.

    :raises StoreError: when it can't be read, which does not mean that it is empty.
    """
    text = fsops.read_file(path)
    if text is None:
        return None, None

    try:
        return text, index.parse_index(text)
    except index.Unreadable as error:
        aside = path.with_name(f"index.json.damaged-{int(time.time())}")
        fsops.set_aside(path, aside)
        observer(Notice(f"{path} {error}: set aside as {aside.name} and written anew from the state"))
        return None, None
