"""Object stores as targets: the same layout as in a directory, with its state on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import anyio.to_thread

from ..errors import ConfigError
from ..oci import Reference
from ..selection.bucket import BucketAddress, is_bucket, parse_bucket
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.places import open_bucket
from ..transfer.target import Capabilities
from ..values import dataclass
from .kinds import TargetContext, TargetKind, TargetSpec
from .layout import LayoutTarget, images_found

if TYPE_CHECKING:
    from ..store.bucket import BucketStorage
    from ..store.verify import Verification


class BucketTarget(LayoutTarget):
    """A layout in an object store that a run mirrors to. Its blobs are no files that other targets could copy."""

    capabilities: Capabilities = Capabilities(prunable=True, repairable=True)


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

    def open(self, context: TargetContext) -> AbstractAsyncContextManager[BucketTarget]:
        """Open the mirror for writing; see `OCILayout.open`."""
        return self._open(context)

    @asynccontextmanager
    async def _open(self, context: TargetContext) -> AsyncIterator[BucketTarget]:
        root, target = self.root(context.options), context.options.target
        storage = await anyio.to_thread.run_sync(open_bucket, root, self.address)
        async with BucketTarget.open(
            root,
            storage=storage,
            observer=context.observer,
            fsync=target.fsync,
            checks_space=False,
            patience=context.patience,
        ) as opened:
            yield opened

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[BucketTarget]:
        """Open the mirror for reading; see `OCILayout.inspect`."""
        return self._inspect(context)

    @asynccontextmanager
    async def _inspect(self, context: TargetContext) -> AsyncIterator[BucketTarget]:
        await self._prepare(context)
        async with BucketTarget.inspect(self.root(context.options)) as opened:
            yield opened

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
