"""Verification of a target registry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import AccessDenied, ConfigError, LockHeld, StoreError
from ..events import Notice
from ..oci import Descriptor, Digest, Index, Manifest, Reference, Repository
from ..oci.digest_tags import fallback_tag
from ..referrers.find import MAX_DEPTH
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..settings import Options
from ..store import fsops
from ..store.records import ImageRecord, ReferrerRecord
from ..store.state import State
from ..store.verify import Damage, Verification
from ..tasks import run_all
from ..values import dataclass
from .kinds import TargetContext
from .registry_address import RegistryAddress
from .registry_target import lock_state, state_path

T = TypeVar("T")
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class _Attached:
    """A referrer that was pushed with `images`, and everything that it needs."""

    record: ReferrerRecord
    contents: Sequence[Descriptor]
    images: frozenset[str]


async def verify_registry(address: RegistryAddress, context: TargetContext) -> Verification:
    """Ask a registry for all content that runs with this state have pushed, with referrers and their lists.

    The next run checks images with missing content again, and pushes the rest of them.

    :raises ConfigError: without a state.
    :raises QuaymirrorError: if the registry can't be used.
    """
    records = await anyio.to_thread.run_sync(read_records, address, context.options)
    attached = await anyio.to_thread.run_sync(_attached, address, context.options, records)
    async with _checking(address, context) as check:
        await in_batches(records, check.image)
        await in_batches(attached, check.referrer)
        await check.lists([each for each in attached if not each.record.tag])

    await _doubt(address, context, [record.root.digest for record in records if record.name in check.broken_images])
    damages = [Damage(kind, digest, tuple(sorted(names))) for (kind, digest), names in sorted(check.broken.items())]
    return Verification(
        len(records),
        len(check.sizes),
        sum(check.sizes.values()),
        tuple(damages),
        refused=len(check.refused),
        refusal=next(iter(check.refused.values()), ""),
    )


async def lost_images(address: RegistryAddress, context: TargetContext) -> tuple[list[ImageRecord], dict[str, str]]:
    """Return the pushed images of which the registry has neither tag nor manifest, and why others are unknown, by name.

    :raises QuaymirrorError: as `verify_registry`.
    """
    lost: list[ImageRecord] = []
    records = await anyio.to_thread.run_sync(read_records, address, context.options)
    async with _checking(address, context) as check:

        async def look(record: ImageRecord) -> None:
            if not await check.has_root(record):
                lost.append(record)

        await in_batches(records, look)

    return [record for record in lost if record.name not in check.refused], check.refused


async def forget_images(address: RegistryAddress, context: TargetContext, names: Sequence[str]) -> None:
    """Delete the records of images; at the registry nothing changes.

    :raises LockHeld: if a run pushes there.
    :raises StoreError: if the state can't be written.
    """
    async with AsyncExitStack() as stack:
        state, _ = await lock_state(address, context, stack)
        stack.callback(state.close)
        await anyio.to_thread.run_sync(state.forget, names)


async def record_pushed(address: RegistryAddress, context: TargetContext, records: Sequence[ImageRecord]) -> None:
    """Record images that runs elsewhere have pushed; a record of the same image with more contents stays.

    :raises LockHeld: if a run pushes there.
    :raises StoreError: if the state can't be written.
    """
    async with AsyncExitStack() as stack:
        state, _ = await lock_state(address, context, stack)
        stack.callback(state.close)
        await anyio.to_thread.run_sync(_record, state, records)


def _record(state: State, records: Sequence[ImageRecord]) -> None:
    new = []
    for record in records:
        known = state.image(record.name)
        is_same = known is not None and (known.root, known.source) == (record.root, record.source)
        if known is None or not is_same or len(known.contents) < len(record.contents):
            new.append(record)

    for start in range(0, len(new), _AT_A_TIME):
        state.commit(new[start : start + _AT_A_TIME])


async def in_batches(records: Sequence[T], look: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Call `look` for each of `records`, in batches, so that not all wait for a connection at the same time."""
    for start in range(0, len(records), _AT_A_TIME):
        await run_all(partial(look, record) for record in records[start : start + _AT_A_TIME])


async def has_images(address: RegistryAddress, context: TargetContext, references: Sequence[Reference]) -> list[bool]:
    """Return for each of `references` if the registry has it under its name, with its digest if it has one.

    :raises QuaymirrorError: if the registry can't be used.
    """
    found: dict[Reference, bool] = {}
    async with _checking(address, context) as check:

        async def look(reference: Reference) -> None:
            place = address.place(reference.name)
            async with check.limit:
                there = await check.registry.head_manifest(place.repository, place.tag or str(place.digest))

            found[reference] = there is not None and reference.digest in (None, there.digest)

        for start in range(0, len(references), _AT_A_TIME):
            await run_all(partial(look, reference) for reference in references[start : start + _AT_A_TIME])

    return [found[reference] for reference in references]


@asynccontextmanager
async def _checking(address: RegistryAddress, context: TargetContext) -> AsyncIterator[_Check]:
    async with context.connect(
        address.origin, context.options, context.observer, namespace=address.namespace
    ) as client:
        registry = RegistryPusher(client, may_write=False, is_evidence=True)
        await registry.ping()
        yield _Check(address, registry, RegistryPuller(client))


async def _doubt(address: RegistryAddress, context: TargetContext, roots: Sequence[Digest]) -> None:
    if not roots:
        return

    try:
        async with AsyncExitStack() as stack:
            state, _ = await lock_state(address, context, stack)
            stack.callback(state.close)
            await anyio.to_thread.run_sync(state.doubt, roots)
    except (LockHeld, StoreError) as error:
        context.observer(Notice(f"the next run will not push again what is missing: {error.message}"))


@dataclass(slots=True)
class _Check:
    """One verification; each repository is asked once for each of its blobs."""

    address: RegistryAddress
    registry: RegistryPusher
    reader: RegistryPuller
    limit: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_AT_A_TIME))
    sizes: dict[Digest, int] = field(default_factory=dict)
    broken: defaultdict[tuple[str, Digest], set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: dict[str, str] = field(default_factory=dict)
    """The reasons why images could not be checked, by name."""

    @property
    def broken_images(self) -> set[str]:
        """The names of images that are not as they were pushed."""
        return {name for names in self.broken.values() for name in names}

    async def image(self, record: ImageRecord) -> None:
        """Check the tag and the content of an image."""
        place = self.address.place(record.name)
        try:
            async with self.limit:
                name = place.tag or str(record.root.digest)
                found = await self.registry.head_manifest(place.repository, name)

            if found is None or found.digest != record.root.digest:
                self.broken["missing" if found is None else "replaced", record.root.digest].add(record.name)

            # Of an image that a run has found at the target only the root is recorded.
            contents = record.contents if len(record.contents) > 1 else await self._below(place, record.root)
            await run_all(partial(self._node, place.repository, node, record.name) for node in contents)
        except AccessDenied as error:
            self.refused[record.name] = error.message

    async def referrer(self, attached: _Attached) -> None:
        """Check a referrer; the images that it belongs to are not as they were pushed without it."""
        record, root = attached.record, attached.record.root
        repository = self.address.place(f"{record.repository}:{record.tag or 'none'}").repository
        try:
            async with self.limit:
                found = await self.registry.head_manifest(repository, record.tag or str(root.digest))

            if found is None or found.digest != root.digest:
                self.broken["missing" if found is None else "replaced", root.digest] |= attached.images

            for name in attached.images:
                await run_all(partial(self._node, repository, node, name) for node in attached.contents)
        except AccessDenied as error:
            self.refused |= dict.fromkeys(attached.images, error.message)

    async def lists(self, attached: Sequence[_Attached]) -> None:
        """Check that clients find referrers that are there: a registry without the API needs a list of them."""
        by_subject: defaultdict[tuple[Repository, Digest], list[_Attached]] = defaultdict(list)
        for each in attached:
            if ("missing", each.record.root.digest) not in self.broken and not each.images & self.refused.keys():
                repository = self.address.place(f"{each.record.repository}:none").repository
                by_subject[repository, each.record.subject].append(each)

        if by_subject and await self.reader.referrers(*next(iter(by_subject))) is None:
            await in_batches(list(by_subject.items()), self._list)

    async def _list(self, subject: tuple[tuple[Repository, Digest], Sequence[_Attached]]) -> None:
        (repository, digest), attached = subject
        async with self.limit:
            found = await self.registry.head_manifest(repository, fallback_tag(digest))
            node = None if found is None else await self.reader.manifest(repository, found.digest)

        listed = {entry.digest for entry in node.manifests} if isinstance(node, Index) else set()
        for each in attached:
            if each.record.root.digest not in listed:
                self.broken["unlisted", each.record.root.digest] |= each.images

    async def has_root(self, record: ImageRecord) -> bool:
        """Return True if the tag or the manifest of an image exists, or if that can't be seen."""
        place = self.address.place(record.name)
        try:
            async with self.limit:
                name = place.tag or str(record.root.digest)
                return (
                    await self.registry.head_manifest(place.repository, name) is not None
                    or await self.registry.head_manifest(place.repository, str(record.root.digest)) is not None
                )
        except AccessDenied as error:
            self.refused[record.name] = error.message
            return True

    async def _node(self, repository: Repository, node: Descriptor, name: str) -> None:
        self.sizes[node.digest] = node.size
        async with self.limit:
            is_there = await self.registry.has_content(repository, node)

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


def _attached(address: RegistryAddress, options: Options, records: Sequence[ImageRecord]) -> list[_Attached]:
    """Return the referrers that were pushed with `records`."""
    if "{tag}" in address.path:
        return []  # a digest tag does not tell the repository

    names: defaultdict[Digest, set[str]] = defaultdict(set)
    for image in records:
        for node in image.contents:
            names[node.digest].add(image.name)

    state, _ = State.open(state_path(address, options), read_only=True)
    try:
        found = state.visible_referrers()
        for _depth in range(MAX_DEPTH):
            for each in found:
                names[each.root.digest] |= names[each.subject]

        return [
            _Attached(each, state.referrer_contents(each), frozenset(names[each.subject]))
            for each in found
            if each.missing is None and names[each.subject]
        ]
    finally:
        state.close()


def read_records(address: RegistryAddress, options: Options) -> list[ImageRecord]:
    """Return the images that runs with this state have pushed, sorted by name.

    :raises ConfigError: without a state.
    """
    path = state_path(address, options)
    if not fsops.exists(path):
        raise ConfigError(f"no run found for {address}: pass the same target and --state as to sync")

    state, _ = State.open(path, read_only=True)
    try:
        return [record for image in state.images() if (record := state.image(image.name, doubted=True)) is not None]
    finally:
        state.close()
