"""Mending a mirror: exactly what is missing or damaged is fetched again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from ..errors import InvalidName, QuaymirrorError, Scope
from ..events import BlobFinished, Notice, Observer
from ..oci import Descriptor, Reference, Repository
from ..oci.manifest import MAX_DEPTH
from ..progress.meters import Meters
from ..registry.pull import RegistryPuller
from ..settings import Options
from ..store.layout import OCILayout, WriteOptions
from ..store.state import State
from ..store.storage import Storage
from ..store.verify import Damage, Progress, Verification, verify_layout
from ..tasks import run_all
from ..transfer.blob import BlobJob, fetch_blob
from ..transfer.slots import FetchSlots
from .wiring import connect


@dataclass(frozen=True, slots=True)
class _Mender:
    layout: OCILayout
    source: RegistryPuller
    settings: Options
    observer: Observer
    slots: anyio.CapacityLimiter

    async def mend(self, damage: Damage, mended: list[Damage]) -> None:
        """Fetch a blob from wherever an image that needs it came from; say so if it can't be had."""
        causes: list[str] = []
        for name in damage.images:
            reference = await self.layout.use(partial(_reference, name=name, settings=self.settings))
            if reference is None:
                causes.append(f"{name} is not from {self.settings.source.origin.netloc}")
                continue

            try:
                size = await self._fetch(damage.node, reference)
            except QuaymirrorError as error:
                if error.scope is Scope.RUN:
                    raise

                causes.append(error.message)
            else:
                mended.append(damage)
                self.observer(BlobFinished(damage.digest, size))
                return

        self.observer(Notice(f"{damage.digest} can't be had again: {causes[0] if causes else 'no image needs it'}"))

    async def _fetch(self, node: Descriptor | None, reference: Reference) -> int:
        assert node is not None, "known of all damages of a layout"
        async with self.slots:
            if node.is_manifest:
                found = await self.source.manifest(reference.repository, node.digest, expected=node)
                await self.layout.put_manifest(reference, node, found.raw)
            else:
                await self._fetch_blob(node, reference)

        return node.size

    async def _fetch_blob(self, node: Descriptor, reference: Reference) -> None:
        async with self.layout.sink(reference, node) as sink:
            job = BlobJob(reference.repository, node, reference.name)
            await fetch_blob(job, self.source, sink, FetchSlots(1, 1), Meters())


async def repair(path: Path, settings: Options, observer: Observer, progress: Progress) -> Verification:
    """Verify the layout at `path`, fetch what is missing or damaged, and return what could not be mended.

    What replaces a damaged blob does so at once: readers see the one or the other.

    :raises LockHeld: when a run is at work there.
    :raises MirrorDamaged: when there is no readable index.
    :raises StoreError: when the disk fails.
    :raises CredentialsRefused: when the server does not let us in.
    """
    options = WriteOptions(settings.target.fsync, checks_space=False)
    async with OCILayout.open(path, observer=observer, options=options) as layout, connect(settings, observer) as there:
        slots = anyio.CapacityLimiter(settings.limits.layer_concurrency)
        mender = _Mender(layout, there.source, settings, observer, slots)
        # A manifest that is back may show that what it needs is gone, too.
        for _ in range(MAX_DEPTH + 1):
            found = await verify_layout(path, progress=progress)
            mended: list[Damage] = []
            await run_all(partial(mender.mend, damage, mended) for damage in found.damages)
            if not mended:
                return found

            await layout.use(partial(_flush, mended=mended))

    return await verify_layout(path, progress=progress)


def _flush(storage: Storage, _state: State, *, mended: Sequence[Damage]) -> None:
    storage.flush([damage.digest for damage in mended])


def _reference(_storage: Storage, state: State, *, name: str, settings: Options) -> Reference | None:
    """Where an image is to be had, None if it isn't from the server that was named."""
    record = state.image(name)
    registry = settings.source.origin.netloc
    if record is not None and record.registry != registry:
        return None

    repository, _, tag = name.rpartition(":")
    try:
        return Reference(Repository(registry, repository), tag)
    except InvalidName:
        return None
