"""Is what was mirrored still there? A layout is read and hashed, a registry is asked for everything it should have."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread

from ..errors import ConfigError
from ..events import Observer, ignore
from ..oci import Descriptor, Digest, Index, Reference, Repository
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..settings import Options
from ..store.records import ImageRecord
from ..store.state import State
from ..store.verify import Damage, Verification, verify_layout
from ..targets.parse import LayoutSpec, TargetSpec
from ..targets.registry import state_path
from ..targets.registry_address import RegistryAddress
from ..tasks import run_all
from .wiring import connect_target

_AT_A_TIME = 16


async def verify_target(spec: TargetSpec, settings: Options, observer: Observer = ignore) -> Verification:
    """Look for everything that runs from here have left at the target that `spec` names.

    :raises ConfigError: when that can't be known.
    :raises QuaymirrorError: when the target can't be read.
    """
    match spec:
        case LayoutSpec():
            return await verify_layout(spec.path)
        case RegistryAddress():
            return await _verify_registry(spec, settings, observer)
        case _:
            raise ConfigError(f"{spec} holds derived images: they were checked when they were made")


@dataclass(slots=True)
class _Check:
    """One look at a registry; each repository is asked once for each of its blobs."""

    address: RegistryAddress
    registry: RegistryPusher
    reader: RegistryPuller
    limit: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_AT_A_TIME))
    sizes: dict[Digest, int] = field(default_factory=dict)
    broken: defaultdict[tuple[str, Digest], set[str]] = field(default_factory=lambda: defaultdict(set))

    async def image(self, record: ImageRecord) -> None:
        """Check the tag of an image, and all it needs."""
        place = self.address.place(record.name)
        assert place.tag is not None
        async with self.limit:
            found = await self.registry.head_manifest(place.repository, place.tag)

        if found is None or found.digest != record.root.digest:
            self.broken["missing" if found is None else "replaced", record.root.digest].add(record.name)

        # What was found at the target by a run of ours was only looked at from above.
        contents = record.contents if len(record.contents) > 1 else await self._below(place, record.root)
        await run_all(partial(self._node, place.repository, node, record.name) for node in contents)

    async def _node(self, repository: Repository, node: Descriptor, name: str) -> None:
        self.sizes[node.digest] = node.size
        async with self.limit:
            if not node.is_manifest:
                is_there = await self.registry.has_blob(repository, node)
            else:
                found = await self.registry.head_manifest(repository, str(node.digest))
                is_there = found is not None and found.digest == node.digest

        if not is_there:
            self.broken["missing", node.digest].add(name)

    async def _below(self, place: Reference, node: Descriptor) -> list[Descriptor]:
        async with self.limit:
            if await self.registry.head_manifest(place.repository, str(node.digest)) is None:
                return [node]

            parsed = await self.reader.manifest(place.repository, node.digest)

        if not isinstance(parsed, Index):
            return [node, *parsed.blobs]

        children = [await self._below(place, child) for child in parsed.manifests]
        return [node, *(below for child in children for below in child)]


async def _verify_registry(address: RegistryAddress, settings: Options, observer: Observer) -> Verification:
    records = await anyio.to_thread.run_sync(_records, address, settings)
    async with connect_target(address.origin, settings, observer, namespace=address.namespace) as client:
        registry = RegistryPusher(client, may_write=False)
        await registry.ping()
        check = _Check(address, registry, RegistryPuller(client))
        # A few images at a time: what is known of thousands should not all wait at the registry's door.
        for start in range(0, len(records), _AT_A_TIME):
            await run_all(partial(check.image, record) for record in records[start : start + _AT_A_TIME])

    damages = [Damage(kind, digest, tuple(sorted(names))) for (kind, digest), names in sorted(check.broken.items())]
    return Verification(len(records), len(check.sizes), sum(check.sizes.values()), tuple(damages))


def _records(address: RegistryAddress, settings: Options) -> list[ImageRecord]:
    path = state_path(address, settings)
    if not path.exists():
        raise ConfigError(f"no run from here has pushed to {address}: name the target, and --state, as given to sync")

    state, _ = State.open(path, read_only=True)
    try:
        return [record for image in state.images() if (record := state.image(image.name)) is not None]
    finally:
        state.close()
