"""Object stores as targets: the same layout as in a directory, with its state on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio.to_thread

from ..errors import ConfigError, StoreError
from ..oci import Descriptor, Digest, Reference
from ..selection.bucket import BucketAddress, is_bucket, parse_bucket
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.index import pinned
from ..store.layout import OCILayout
from ..store.places import open_bucket, open_for_plan
from ..store.reader import LayoutReader
from ..store.records import ImageRecord
from ..store.sink import Sink
from ..store.snapshots import SnapshotNote, take_snapshot
from ..store.state import State, read_attached
from ..store.storage import Storage, blob_key
from ..text import counted
from ..transfer.target import Capabilities, Target
from ..values import dataclass
from .kinds import TargetContext, TargetKind, TargetSpec
from .layout import LayoutTarget, images_found

if TYPE_CHECKING:
    from ..shards.plan import Division
    from ..store.bucket import BucketStorage
    from ..store.plan_storage import PlanStorage
    from ..store.records import ReferrerRecord
    from ..store.verify import Verification


# Images that one transaction records.
_AT_A_TIME = 500


class BucketTarget(LayoutTarget):
    """A layout in an object store that a run mirrors to. Its blobs are no files that other targets could copy."""

    capabilities: Capabilities = Capabilities(prunable=True, repairable=True, takes_shards=True)


class BucketShard(OCILayout):
    """A layout in an object store as one shard of a plan mirrors to it, beside others; see `PlanStorage`.

    Its state has the images of this shard. Referrers, snapshots and pruning are those of a run of one machine.
    """

    capabilities: Capabilities = Capabilities(takes_shards=True)
    _storage: PlanStorage

    async def recover_manifest(self, reference: Reference, digest: Digest) -> None:
        """Return None: `read_manifest` finds every manifest that is here."""

    async def publish(self) -> None:
        """Return: images appear one by one."""

    def attachable(self) -> None:
        """Return None: the next run of one machine brings referrers."""

    def prunable(self) -> None:
        """Return None: other shards need what this one does not know."""

    def shared(self) -> Self:
        """Return the layout itself."""
        return self

    async def find_blob(self, reference: Reference, blob: Descriptor) -> bool:
        """Return True if `blob` is stored, brought by any shard."""
        await anyio.to_thread.run_sync(self._storage.find, blob_key(blob.digest), limiter=self._threads)
        return self.has_content(reference, blob)

    @asynccontextmanager
    async def sink_unless_stored(self, reference: Reference, blob: Descriptor) -> AsyncIterator[Sink | None]:
        """Open the sink of a blob; None if it is stored by now."""
        if await self.find_blob(reference, blob):
            yield None
        else:
            async with self.sink(reference, blob) as sink:
                yield sink

    async def records(self) -> list[ImageRecord]:
        """Return the images of this shard."""
        return await self.use(lambda _, state: pinned(state.records(), self._pins or {}))


@dataclass(frozen=True, slots=True)
class BucketSpec(TargetSpec):
    """A mirror in an object store."""

    address: BucketAddress
    capabilities: ClassVar[Capabilities] = BucketTarget.capabilities

    def __str__(self) -> str:
        return str(self.address)

    def state_directory(self, options: Options) -> Path:
        """Return the directory of the state, which is on this machine."""
        return self.root(options) / ".quaymirror"

    def root(self, options: Options) -> Path:
        """Return the directory that stands for the mirror on this machine; see `Options.state_directory`."""
        return options.state_directory(str(self))

    def is_source(self, source: SourceAddress) -> bool:
        """Return True if `source` is the same mirror."""
        return source.is_layout and is_bucket(source.path) and str(parse_bucket(source.path)) == str(self)

    def check_shards(self) -> None:
        """Check that the object store has locks; see `TargetSpec.check_shards`."""
        if not self.address.locks:
            raise ConfigError(f"shards need the lock of {self}: leave out ?locks=none")

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the mirror for writing, alone or as one shard of a plan; see `OCILayout.open`."""
        return self._open(context) if context.division is None else self._open_share(context, context.division)

    @asynccontextmanager
    async def _open(self, context: TargetContext) -> AsyncIterator[BucketTarget]:
        root = self.root(context.options)
        storage = await anyio.to_thread.run_sync(open_bucket, root, self.address)
        async with BucketTarget.open(root, storage=storage, **_options(context)) as opened:
            yield opened

    @asynccontextmanager
    async def _open_share(self, context: TargetContext, division: Division) -> AsyncIterator[BucketShard]:
        root = self.root(context.options)
        share = division.share
        opening = partial(
            open_for_plan, root, self.address, plan=division.plan.id, role=f"{share.index}-of-{share.count}"
        )
        storage = await anyio.to_thread.run_sync(opening)
        async with BucketShard.open(root, storage=storage, pins=division.pins(), **_options(context)) as opened:
            yield opened

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[Target]:
        """Open the mirror for reading; see `OCILayout.inspect`."""
        return self._inspect(context)

    async def record(self, context: TargetContext, records: Sequence[ImageRecord], *, complete: bool) -> None:
        """Record images that shards have stored, as a snapshot; see `TargetSpec.record`.

        It takes part in the lock of their plan: a shard that was killed and ran again elsewhere does not delay it.
        """
        if not records:
            return

        root, plan = self.root(context.options), records[0].run
        opening = partial(open_for_plan, root, self.address, plan=plan, role="merge", keeps_state=True)
        storage = await anyio.to_thread.run_sync(opening)
        async with BucketTarget.open(root, storage=storage, **_options(context)) as opened:
            lost = await opened.use(partial(_record, records=records, note=SnapshotNote("sync", plan, "", complete)))

        if lost:
            raise StoreError(
                f"{self} lacks content of {counted(len(lost), 'image')}, such as {lost[0]}, which were not recorded: "
                "the next run brings them"
            )

    @asynccontextmanager
    async def _inspect(self, context: TargetContext) -> AsyncIterator[Target]:
        root, division = self.root(context.options), context.division
        if division is not None:
            await anyio.to_thread.run_sync(open_bucket, root, self.address)
            async with BucketShard.inspect(root, pins=division.pins()) as share:
                yield share

            return

        await self._prepare(context)
        async with BucketTarget.inspect(root) as opened:
            yield opened

    def attached(self, options: Options, references: Iterable[Reference]) -> dict[Reference, list[ReferrerRecord]]:
        """Return the referrers of images of the mirror, by its state on this machine."""
        return read_attached(self.state_directory(options) / "state.db", references)

    async def has_images(self, context: TargetContext, references: Sequence[Reference]) -> list[bool]:
        """Return if the mirror has each image; see `TargetSpec.has_images`."""
        storage = await self._prepare(context)
        if not await anyio.to_thread.run_sync(storage.exists):
            raise ConfigError(f"no mirror at {self}")

        async with BucketTarget.inspect(self.root(context.options)) as layout:
            return await layout.use(lambda storage, state: images_found(storage, state, references))

    async def verify(self, context: TargetContext) -> Verification:
        """Read and hash everything in the mirror."""
        from ..store.verify import verify_storage

        return await verify_storage(await self._prepare(context))

    async def _prepare(self, context: TargetContext) -> BucketStorage:
        return await anyio.to_thread.run_sync(_prepared, self.root(context.options), self.address)


def locate_bucket(text: str, options: Options) -> Path:
    """Return the directory that stands for the mirror at the address `text` on this machine. It blocks.

    If it has no state, the copy in the object store is fetched.

    :raises ConfigError: if no mirror is there, or the address is illegal.
    :raises StoreError: if the object store or the disk fails.
    """
    spec = BucketSpec(parse_bucket(text))
    root = spec.root(options)
    if not _prepared(root, spec.address).exists():
        raise ConfigError(f"no mirror at {spec}")

    return root


def _options(context: TargetContext) -> dict[str, Any]:
    """Return the options of `OCILayout.open`."""
    fsync, patience = context.options.target.fsync, context.patience
    return {"observer": context.observer, "fsync": fsync, "checks_space": False, "patience": patience}


def _record(storage: Storage, state: State, *, records: Sequence[ImageRecord], note: SnapshotNote) -> list[str]:
    """Record images that are newer than those of the state; return the names of those that are not complete."""
    reader, new, lost = LayoutReader(storage), list[ImageRecord](), list[str]()
    for record in records:
        known = state.image(record.name)
        if known is not None and (known.mirrored >= record.mirrored or _is_same(known, record)):
            continue

        if all(reader.has(node) for node in record.contents):
            new.append(record)
        else:
            lost.append(record.name)

    for start in range(0, len(new), _AT_A_TIME):
        state.commit(new[start : start + _AT_A_TIME])

    take_snapshot(storage, state, replace(note, complete=note.complete and not lost))
    return lost


def _is_same(one: ImageRecord, other: ImageRecord) -> bool:
    return (one.root, one.source, one.platforms) == (other.root, other.source, other.platforms)


def _prepared(root: Path, address: BucketAddress) -> BucketStorage:
    storage = open_bucket(root, address)
    storage.restore_state()
    return storage


def _claims(text: str, _options: Options) -> bool:
    return is_bucket(text)


def _parse(text: str, _selection: Selection, options: Options) -> BucketSpec:
    return _locate(text, options)


def _locate(text: str, _options: Options) -> BucketSpec:
    return BucketSpec(parse_bucket(text))


KIND = TargetKind(_claims, _parse, _locate)
