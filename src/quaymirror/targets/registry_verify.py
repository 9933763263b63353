"""Verification of a target registry."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import field
from functools import partial

import anyio
import anyio.to_thread

from ..errors import ConfigError
from ..oci import Descriptor, Digest, Index, Manifest, Reference, Repository
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..settings import Options
from ..store import fsops
from ..store.records import ImageRecord
from ..store.state import State
from ..store.verify import Damage, Verification
from ..tasks import run_all
from ..values import dataclass
from .kinds import TargetContext
from .registry_address import RegistryAddress
from .registry_target import state_path

_AT_A_TIME = 16


async def verify_registry(address: RegistryAddress, context: TargetContext) -> Verification:
    """Ask a registry for all content that runs with this state have pushed.

    :raises ConfigError: without a state.
    :raises QuaymirrorError: if the registry can't be used.
    """
    records = await anyio.to_thread.run_sync(_records, address, context.options)
    async with context.connect(
        address.origin, context.options, context.observer, namespace=address.namespace
    ) as client:
        registry = RegistryPusher(client, may_write=False, is_evidence=True)
        await registry.ping()
        check = _Check(address, registry, RegistryPuller(client))
        # In batches, so that not all images wait for a connection at the same time.
        for start in range(0, len(records), _AT_A_TIME):
            await run_all(partial(check.image, record) for record in records[start : start + _AT_A_TIME])

    damages = [Damage(kind, digest, tuple(sorted(names))) for (kind, digest), names in sorted(check.broken.items())]
    return Verification(len(records), len(check.sizes), sum(check.sizes.values()), tuple(damages))


@dataclass(slots=True)
class _Check:
    """One verification; each repository is asked once for each of its blobs."""

    address: RegistryAddress
    registry: RegistryPusher
    reader: RegistryPuller
    limit: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_AT_A_TIME))
    sizes: dict[Digest, int] = field(default_factory=dict)
    broken: defaultdict[tuple[str, Digest], set[str]] = field(default_factory=lambda: defaultdict(set))

    async def image(self, record: ImageRecord) -> None:
        """Check the tag and the content of an image."""
        place = self.address.place(record.name)
        assert place.tag is not None
        async with self.limit:
            found = await self.registry.head_manifest(place.repository, place.tag)

        if found is None or found.digest != record.root.digest:
            self.broken["missing" if found is None else "replaced", record.root.digest].add(record.name)

        # Of an image that a run has found at the target only the root is recorded.
        contents = record.contents if len(record.contents) > 1 else await self._below(place, record.root)
        await run_all(partial(self._node, place.repository, node, record.name) for node in contents)

    async def _node(self, repository: Repository, node: Descriptor, name: str) -> None:
        self.sizes[node.digest] = node.size
        async with self.limit:
            is_there = not node.is_manifest and await self.registry.has_blob(repository, node)
            if not is_there:
                # A child of an unknown type may be there as either.
                found = await self.registry.head_manifest(repository, str(node.digest))
                is_there = found is not None and found.digest == node.digest

        if not is_there:
            self.broken["missing", node.digest].add(name)

    async def _below(self, place: Reference, node: Descriptor) -> list[Descriptor]:
        async with self.limit:
            if await self.registry.head_manifest(place.repository, str(node.digest)) is None:
                return [node]

            parsed = await self.reader.manifest(place.repository, node.digest, expected=node)

        if not isinstance(parsed, Index):
            return [node, *(parsed.blobs if isinstance(parsed, Manifest) else ())]

        children = [await self._below(place, child) for child in parsed.manifests]
        return [node, *(below for child in children for below in child)]


def _records(address: RegistryAddress, options: Options) -> list[ImageRecord]:
    path = state_path(address, options)
    if not fsops.exists(path):
        raise ConfigError(f"no run found for {address}: pass the same target and --state as to sync")

    state, _ = State.open(path, read_only=True)
    try:
        return [record for image in state.images() if (record := state.image(image.name)) is not None]
    finally:
        state.close()
