"""Decompressed and filtered layers: each is made once per run, and shared by hard links."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ..emit.calls import prepare_layer
from ..emit.inflate import mismatch
from ..emit.job import StagedLayer
from ..emit.workers import Workers
from ..oci import Digest
from ..store import fsops
from ..tasks import run_all
from ..values import dataclass

# The size of unused layers that are kept for later images; others are decompressed again if needed.
_BUDGET_BYTES = 32 * 1024**3


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed layer in the file `blob`, and its digest when decompressed."""

    digest: Digest
    diff_id: Digest
    blob: Path


@dataclass(slots=True, eq=False)
class _Entry:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    diff_id: Digest | None = None
    size: int = 0
    filtered: str = ""
    users: int = 0


class LayerCache:
    """Decompressed layers below `directory`, to which `filters` have been applied.

    Unused ones are removed if all together have more than `budget` bytes.
    """

    def __init__(
        self, directory: Path, workers: Workers, *, filters: tuple[str, ...] = (), budget: int = _BUDGET_BYTES
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._filters = filters
        self._budget = budget
        self._entries: OrderedDict[Digest, _Entry] = OrderedDict()

    @asynccontextmanager
    async def borrow(self, layers: Sequence[Compressed], image: str) -> AsyncIterator[Mapping[Digest, StagedLayer]]:
        """Decompress and filter missing `layers`, and keep all of them during the context; errors name the `image`.

        :raises UnsupportedContent, DigestMismatch, StoreError: as `inflate`.
        :raises EmitFailed: if a filter fails.
        """
        distinct = {layer.digest: layer for layer in layers}
        entries = [self._entries.setdefault(digest, _Entry()) for digest in distinct]
        for digest, entry in zip(distinct, entries, strict=True):
            entry.users += 1  # before anything is awaited, so that the layer is not evicted
            self._entries.move_to_end(digest)

        try:
            await run_all(
                partial(self._take, layer, entry, image)
                for layer, entry in zip(distinct.values(), entries, strict=True)
            )
            yield {
                digest: StagedLayer(digest.encoded, self._path(digest), entry.filtered)
                for digest, entry in zip(distinct, entries, strict=True)
            }
        finally:
            for entry in entries:
                entry.users -= 1

            with anyio.CancelScope(shield=True):
                await self._evict()

    async def discard(self, digest: Digest, blob: Path) -> None:
        """Remove a layer that is not needed here again, and its `blob`, unless it is in use."""
        entry = self._entries.get(digest)
        if entry is None or entry.users == 0:
            self._entries.pop(digest, None)
            await anyio.to_thread.run_sync(_remove, [self._path(digest), blob])

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.encoded}.tar"

    async def _take(self, layer: Compressed, entry: _Entry, image: str) -> None:
        async with entry.lock:
            if entry.diff_id is None:
                entry.size, entry.filtered = await self._workers.run(
                    prepare_layer, layer.blob, self._path(layer.digest), layer.diff_id, self._filters, image
                )
                entry.diff_id = layer.diff_id

        if entry.diff_id != layer.diff_id:
            raise mismatch(layer.diff_id)  # two configs contradict each other

    async def _evict(self) -> None:
        total = sum(entry.size for entry in self._entries.values())
        victims = []
        for digest, entry in list(self._entries.items()):
            if entry.users == 0 and (entry.diff_id is None or total > self._budget):
                total -= entry.size
                del self._entries[digest]
                victims.append(self._path(digest))

        if victims:
            await anyio.to_thread.run_sync(_remove, victims)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        fsops.remove(path)
