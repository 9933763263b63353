"""A layout that a run writes to (OCI image-spec, image-layout.md): one storage for all images, and its state."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import anyio
import anyio.to_thread

from ..errors import MirrorDamaged, QuaymirrorError, Scope, StoreError
from ..events import Notice, Observer, ignore
from ..oci import Descriptor, Digest, Reference, mediatype
from ..tasks import background
from . import fsops
from .adoption import adopt_digest_tags
from .commits import GroupCommit, Record
from .details import describe_images
from .executor import SerialExecutor
from .fsops import Fsync
from .index import incomplete_roots, update_index
from .lock import Patience
from .places import open_storage
from .reader import LayoutReader
from .records import Attachment, ImageRecord, ReferrerCheck, ReferrerRecord
from .reservation import SpaceReservation
from .snapshots import prepare_snapshots
from .state import State
from .storage import INDEX, BlobSink, ExclusiveLock, Storage, blob_key

T = TypeVar("T")

# index.json is written as a whole: with thousands of images that takes too long to do for each of them.
_CHECKPOINT_IMAGES = 500
_CHECKPOINT_SECONDS = 30.0
# Writing it takes at most one part in so many of the time, and happens after this share of new images: otherwise it
# would take time that grows with the square of the images.
_CHECKPOINT_PAUSES = 100
_CHECKPOINT_SHARE = 4
_READERS = 8
_STATE = Path(".quaymirror", "state.db")


class OCILayout:
    """A layout that a run writes to.

    Methods raise `StoreError` if the storage fails, and `MirrorDamaged` if something else is in the place of a blob.
    """

    def __init__(
        self,
        storage: Storage,
        state: State,
        *,
        observer: Observer = ignore,
        checks_space: bool = False,
        lock: ExclusiveLock | None = None,
        pins: Mapping[str, Digest] | None = None,
    ) -> None:
        self._storage = storage
        self._reader = LayoutReader(storage)
        self._state = state
        self._observer = observer
        self._lock = lock
        self._pins = pins
        self._space = SpaceReservation(storage) if checks_space else None
        self._executor = SerialExecutor()
        # Its own threads, as in `LocalStorage`.
        self._threads = anyio.CapacityLimiter(_READERS)
        self._commits = GroupCommit(self._executor, self._commit)
        self._since_checkpoint = 0
        self._last_checkpoint = time.monotonic()
        self._checkpoint_images, self._checkpoint_seconds = _CHECKPOINT_IMAGES, _CHECKPOINT_SECONDS
        # Of recorded images that are not whole on the disk.
        self._incomplete_roots: frozenset[str] = frozenset()
        # Verified in this run, but in no committed image yet: the state doesn't know them.
        self._fresh: set[Digest] = set()
        # Registries whose images are being replaced by those of another one.
        self._replaced: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        *,
        storage: Storage | None = None,
        observer: Observer = ignore,
        fsync: Fsync = Fsync.ALWAYS,
        checks_space: bool = True,
        patience: Patience | None = None,
        pins: Mapping[str, Digest] | None = None,
    ) -> AsyncIterator[Self]:
        """Open the layout at `root` for writing, creating it. Its index is up to date when the context ends.

        Objects are in `storage`, by default in `root` itself, or in the object store whose state it is; the state is
        always below `root`. `patience` waits while another run writes. With `pins`, other shards write at the same
        time, and the state is that of one: see `update_index`.

        :raises TargetRefused: if something else is at `root`.
        :raises LockHeld: if another run writes to it.
        """
        storage = storage or open_storage(root, fsync=fsync)
        async with AsyncExitStack() as stack:
            lock = await stack.enter_async_context(storage.writing(patience))
            storage.create()
            path = root / _STATE
            fsops.make_directory(path.parent)
            state, notice = State.open(path, sync=fsync is not Fsync.NEVER)
            stack.callback(state.close)
            if notice:
                observer(Notice(notice))

            if pins is None:
                await anyio.to_thread.run_sync(prepare_snapshots, storage, state, observer)

            layout = cls(storage, state, observer=observer, checks_space=checks_space, lock=lock, pins=pins)
            # Images that a crash kept from the index are in the state: readers get them before the run starts.
            await layout._executor.run(layout._first_checkpoint)
            await stack.enter_async_context(background(layout._checkpoint_regularly))
            try:
                yield layout
            finally:
                with anyio.CancelScope(shield=True):
                    await layout._executor.run(layout._final_checkpoint)

    @classmethod
    @asynccontextmanager
    async def inspect(cls, root: Path, *, pins: Mapping[str, Digest] | None = None) -> AsyncIterator[Self]:
        """Open the layout at `root`, which need not exist, without writing anything; for `pins` see `open`.

        :raises TargetRefused: if something else is at `root`.
        """
        storage = open_storage(root)
        storage.exists()
        state, _ = State.open(root / _STATE, read_only=True)
        try:
            yield cls(storage, state, pins=pins)
        finally:
            state.close()

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Return True if the pinned `reference` is complete under its name, for the same `platforms`."""
        return await self._executor.run(self._has_image, reference, platforms)

    async def stored_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that the name of `reference` has in the index, None if it is missing."""
        record = await self._executor.run(self._state.image, reference.name)
        return None if record is None else record.root.digest

    async def missing_content(
        self, reference: Reference, nodes: Sequence[Descriptor], *, root: Descriptor | None = None
    ) -> list[Descriptor]:
        """Return those of `nodes` that have to be fetched. Blobs that no run verified are verified, wrong ones deleted.

        :raises DoesNotFit: if the missing blobs don't fit on the disk.
        """
        return await self._executor.run(self._missing, nodes)

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Return True if a node that was missing is stored by now; `missing_content` deleted wrong ones."""
        return self._reader.has(node)

    def blob_file(self, node: Descriptor) -> Path | None:
        """Return the file that has the content of `node`, going by its name and size; None if there is none."""
        try:
            return self._storage.path(node.digest) if self._reader.has(node) else None
        except MirrorDamaged:
            return None  # reported by the run that writes here

    def dedup_key(self, reference: Reference, node: Descriptor) -> Digest:
        """Return the digest: all images share their blobs here."""
        return node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Return the content of a manifest, None if it is missing or damaged."""
        if not self._reader.exists(digest):
            return None

        return await anyio.to_thread.run_sync(self._reader.read, digest, limiter=self._threads)

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[BlobSink]:
        """Open the sink of a blob; see `Storage.sink`."""
        try:
            async with self._storage.sink(node) as sink:
                if self._space is not None:
                    sink.admit = partial(self._space.admit, node)

                yield sink
                if sink.committed:
                    self._fresh.add(node.digest)
        finally:
            if self._space is not None:
                self._space.release(node.digest)

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest."""
        async with self.sink(reference, node) as sink:
            if sink.offset:
                await sink.reset()

            await sink.write(content)
            await sink.commit()

    async def commit(self, record: ImageRecord) -> None:
        """Give an image its name. When this returns, it is durable, with everything that it needs."""
        await self._commits.add(record)

    async def referrer_checks(self) -> dict[tuple[str, str, str], ReferrerCheck]:
        """Return when sources were asked for referrers; see `ReferrerTarget`."""
        return await self._executor.run(self._state.referrer_checks)

    async def stored_referrers(self, subjects: Iterable[Digest]) -> list[ReferrerRecord]:
        """Return the referrers of `subjects` that are stored."""
        return await self._executor.run(self._state.referrers_of, subjects)

    async def stored_subjects(self, reference: Reference) -> list[Digest]:
        """Return the digests of the manifests of a stored image, its root first."""
        record = await self._executor.run(self._state.image, reference.name)
        return [] if record is None else record.manifests

    def referrer_key(self, reference: Reference, node: Descriptor, tag: str) -> Digest:
        """Return the digest: tags are in the index only."""
        return node.digest

    async def put_referrer(
        self, reference: Reference, subject: Digest, node: Descriptor, content: bytes, *, tag: str
    ) -> None:
        """Store the manifest of a referrer; its tag becomes one in the index."""
        if await self.missing_content(reference, [node]):
            await self.put_manifest(reference, node, content)

    async def adopt_tags(self) -> int:
        """Turn images that are digest tags into referrers of the images they belong to; return their number."""
        return await self._executor.run(adopt_digest_tags, self._reader, self._state)

    async def attach(self, attachment: Attachment) -> None:
        """Record the referrers of a stored image; durable when this returns."""
        await self._commits.add(attachment)

    async def settle_referrers(self) -> None:
        """Return: the index is a projection of the state."""

    async def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities a policy accepted an image; see `Target.accepted_by`."""
        return await self._executor.run(self._state.accepted_by, name, root, policy)

    async def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image; see `Target.record_verdict`."""
        recording = partial(self._state.record_verdict, accepted=accepted, reason=reason)
        await self._executor.run(recording, name, root, policy)

    async def use(self, function: Callable[[Storage, State], T]) -> T:
        """Return the result of `function`, which may block, on the storage and its state, between two commits."""
        return await self._executor.run(function, self._storage, self._state)

    def alone(self) -> AbstractContextManager[None]:
        """Keep readers out during the context; see `ExclusiveLock.alone`."""
        assert self._lock is not None, "open for writing"
        return self._lock.alone()

    def _has_image(self, reference: Reference, platforms: str) -> bool:
        record = self._state.image(reference.name)
        if record is None:
            return False

        self._report_replacement(record, reference)
        wanted = (reference.digest, reference.repository.registry, platforms)
        is_same = (record.source, record.registry, record.platforms) == wanted
        if (record.root.digest, record.registry, "") == wanted:
            # A lock file names the image for one platform itself.
            is_same = is_same or record.root.media_type not in mediatype.INDEXES

        return is_same and all(self._reader.has(node) for node in record.contents)

    def _report_replacement(self, record: ImageRecord, reference: Reference) -> None:
        """Report once if images replace those of another registry: names here are without the registry."""
        registry = reference.repository.registry
        if record.registry != registry and record.registry not in self._replaced:
            self._replaced.add(record.registry)
            self._observer(
                Notice(
                    f"{self._storage} has images from {record.registry}, such as {record.name}: "
                    f"images from {registry} replace those with the same names"
                )
            )

    def _missing(self, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        verified = self._state.verified(node.digest for node in nodes)
        missing = [node for node in nodes if not self._is_present(node, verified)]
        if self._space is not None:
            self._space.check(missing)

        return missing

    def _is_present(self, node: Descriptor, verified: set[Digest]) -> bool:
        if not self._reader.has(node):
            return False  # nothing is deleted: the blob may be stored by another thread at this moment

        if node.digest in verified or node.digest in self._fresh:
            return True

        if self._pins is not None:
            # Another shard has stored it, or an earlier run of this one: no object is visible that was not verified.
            self._fresh.add(node.digest)
            return True

        # After a crash before the commit, or from another tool: blobs that no state knows are read once. Those in which
        # a verification has found damage are read again.
        if self._reader.adopt(node):
            self._fresh.add(node.digest)
            return True

        # The wrong blob was there before this run: calls of this method follow one another, and no transfer of a blob
        # begins before one of them reported it missing.
        if self._lock is not None:
            self._storage.delete(blob_key(node.digest))

        return False

    def _commit(self, records: Sequence[Record]) -> list[QuaymirrorError | None]:
        errors: list[QuaymirrorError | None] = [self._incomplete(record) for record in records]
        complete = [record for record, error in zip(records, errors, strict=True) if error is None]
        try:
            self._make_durable(complete)
        except QuaymirrorError as failure:
            return [error or failure.replace() for error in errors]  # each image raises its own

        return errors

    def _incomplete(self, record: Record) -> StoreError | None:
        """Check once more that everything the image needs is stored, before it counts as mirrored."""
        missing = next((node for node in _contents(record) if not self._reader.has(node)), None)
        if missing is None:
            return None

        return StoreError(
            f"{record.name}: {missing.digest} was deleted from {self._storage} by another program", scope=Scope.IMAGE
        )

    def _make_durable(self, records: Sequence[Record]) -> None:
        digests = {node.digest for record in records for node in _contents(record)}
        self._storage.flush(digests)
        self._state.commit(
            [record for record in records if isinstance(record, ImageRecord)],
            [record for record in records if isinstance(record, Attachment)],
        )
        self._fresh -= digests
        self._since_checkpoint += len(records)
        seconds = time.monotonic() - self._last_checkpoint
        if self._since_checkpoint >= self._checkpoint_images or seconds >= self._checkpoint_seconds:
            self._checkpoint()

    def _first_checkpoint(self) -> None:
        self._incomplete_roots = incomplete_roots(self._storage, self._state)
        if left_out := self._checkpoint():
            count = f"{len(left_out):,} image{'s' if len(left_out) > 1 else ''}"
            self._observer(
                Notice(
                    f"{self._storage}: {count} of the state, such as {min(left_out)}, lack content on the disk "
                    f"and are not in {INDEX}: a run that selects them completes them"
                )
            )

    async def _checkpoint_regularly(self) -> None:
        """Write the index also while no image is committed: a large one may take hours."""
        while True:
            await anyio.sleep(_CHECKPOINT_SECONDS)
            await self._executor.run(self._checkpoint_if_due)

    def _final_checkpoint(self) -> None:
        self._checkpoint()
        self._state.record_sizes()

    def _checkpoint_if_due(self) -> None:
        if self._since_checkpoint and time.monotonic() - self._last_checkpoint >= self._checkpoint_seconds:
            self._checkpoint()

    def _checkpoint(self) -> frozenset[str]:
        """Write the index; return the names of recorded images that are left out, since they are incomplete."""
        if self._pins is None:
            describe_images(self._storage, self._state)

        if self._incomplete_roots:
            self._incomplete_roots = incomplete_roots(self._storage, self._state)

        began = time.monotonic()
        left_out = update_index(
            self._storage,
            self._state,
            incomplete=self._incomplete_roots,
            observer=self._observer,
            pins=self._pins,
        )
        self._since_checkpoint = 0
        self._last_checkpoint = time.monotonic()
        self._checkpoint_seconds = max(_CHECKPOINT_SECONDS, (self._last_checkpoint - began) * _CHECKPOINT_PAUSES)
        self._checkpoint_images = max(_CHECKPOINT_IMAGES, self._state.image_count() // _CHECKPOINT_SHARE)
        return left_out


def _contents(record: Record) -> Iterator[Descriptor]:
    yield from record.contents
    if isinstance(record, ImageRecord) and record.attached is not None:
        yield from record.attached.contents
