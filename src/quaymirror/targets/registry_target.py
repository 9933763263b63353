"""A registry as a target: the same manifests byte for byte, and no blob twice over the network."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

import anyio

from ..errors import ContentMissing, LockHeld, NotFound, Side
from ..events import Notice
from ..oci import Descriptor, Digest, Reference, Repository
from ..referrers.choice import ReferrerChoice
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..settings import Options
from ..store import fsops
from ..store.executor import SerialExecutor
from ..store.lock import WRITERS, patiently_locked
from ..store.records import Attachment, ImageRecord, ReferrerCheck, ReferrerRecord
from ..store.state import State
from ..tasks import run_all
from ..text import counted
from ..transfer.target import Capabilities
from .blob_locations import BlobLocations
from .fallback_lists import FallbackLists
from .kinds import TargetContext
from .names import TargetNames
from .new_repositories import NewRepositories
from .registry_address import RegistryAddress
from .spool import SpoolSpace
from .tagging import Tagging
from .upload import UploadMode, UploadSink


class RegistryTarget:
    """A registry that a run pushes to.

    The state says what earlier runs have pushed; it is trusted until the registry contradicts it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """The properties of the registry, as far as it has announced them."""
        return Capabilities(
            adds_tags=True,
            publishes_at_end=True,
            takes_shards=True,
            takes_cluster=True,
            takes_sparse=self._registry.takes_sparse,
        )

    def __init__(
        self,
        address: RegistryAddress,
        registry: RegistryPusher,
        reader: RegistryPuller,
        state: State,
        context: TargetContext,
        *,
        read_only: bool = False,
        is_first: bool = False,
    ) -> None:
        self._address = address
        self._registry = registry
        self._reader = reader
        self._state = state
        self._read_only = read_only
        self._must_check = context.options.target.check_target
        self._choice = ReferrerChoice(context.options.discovery.referrers, context.options.discovery.artifact_types)
        self._observer = context.observer
        self._has_lost = False
        self._missing: set[tuple[str, str, Digest, Digest]] = set()
        self._tagging = Tagging(self._put, reader, context.options.publishing)
        self._serial = SerialExecutor()
        spools = SpoolSpace(state_path(address, context.options).parent)
        if context.has_local_source:
            spools.disable()  # the source can be read again at no cost

        self._mode = UploadMode(spools)
        self._locations = BlobLocations(registry, context.observer)
        self._unrecorded = NewRepositories(registry, self._locations, first=is_first)
        self._names = TargetNames(address, context.observer)
        self._lists = FallbackLists(registry, reader)
        self._tags: dict[Reference, Digest | None] = {}
        self._roots: dict[str, Digest] = {}
        self._doubted = state.doubted()
        self._suspects: set[str] = set()
        self._empty: set[Repository] = set()
        self._is_proven = False
        self._proof = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: RegistryAddress, context: TargetContext, *, read_only: bool = False
    ) -> AsyncIterator[Self]:
        """Open the registry for a run.

        :raises LockHeld: if another run on this machine pushes there.
        :raises StoreError: if the state can't be written.
        :raises CredentialsRefused: if the registry rejects the credentials.
        :raises QuaymirrorError: if it can't be reached.
        """
        async with AsyncExitStack() as stack:
            is_first = not read_only and not fsops.exists(state_path(address, context.options))
            if read_only:
                state, notice = _read_state(address, context.options)
            else:
                state, notice = await lock_state(address, context, stack)

            stack.callback(state.close)
            if notice:
                context.observer(Notice(notice))

            client = await stack.enter_async_context(
                context.connect(address.origin, context.options, context.observer, namespace=address.namespace)
            )
            registry = RegistryPusher(client, may_write=not read_only, denied_is_absent=read_only)
            await registry.ping()
            reader = RegistryPuller(client)
            yield cls(address, registry, reader, state, context, read_only=read_only, is_first=is_first)

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Return True if the tag points to the pinned `reference`, by the state or else by one request.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        place = self._names.claim(reference)
        record = await self._serial.run(self._recorded, reference, platforms)
        if record is not None and not self._must_check and reference.name not in self._suspects:
            return True

        name = place.tag or str(place.digest if record is None else record.root.digest)
        find = self._registry.head_manifest if record is not None else self._unrecorded.find
        found = await find(place.repository, name)
        self._tags[place] = None if found is None else found.digest
        if record is not None and (found is None or found.digest != record.root.digest):
            self._locations.doubt(place.repository)

        wanted = record.root.digest if record is not None else None if platforms else reference.digest
        if reference.name in self._suspects:
            self._locations.doubt(place.repository)
            return False

        if found is None or found.digest != wanted:
            return False

        if record is not None and (lost := await self._lost_referrers(reference, record)):
            self._suspect(reference, lost)
            return False

        if record is None and not self._read_only:
            assert reference.digest is not None
            registry, source = reference.repository.registry, reference.digest
            record = ImageRecord(reference.name, registry, source, found, (found,), platforms, "", time.time())
            await self._record(record)

        self._tags.pop(place, None)
        return True

    async def stored_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that was pushed for `reference`, None if no run recorded one."""
        record = await self._serial.run(partial(self._state.image, reference.name, doubted=True))
        return None if record is None else record.root.digest

    async def missing_content(
        self, reference: Reference, nodes: Sequence[Descriptor], *, root: Descriptor | None = None
    ) -> list[Descriptor]:
        """Return those of `nodes` that are not in the repository of the image.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        repository, locations = self._names.claim(reference).repository, self._locations
        is_suspect = reference.name in self._suspects
        if root is not None:
            self._roots[reference.name] = root.digest
            # Without its tag an image is hardly ever there, unless a run has ended before it set the tags.
            tag = self._tags.get(self._address.place(reference.name), root.digest)
            may_be_there = tag is not None or self._tagging.waits
            if may_be_there and not is_suspect and await self._look_for(repository, root):
                # No registry takes a manifest before the content it refers to.
                locations.add_content(repository, [node.digest for node in nodes])
                return []

        holders = await self._serial.run(self._state.holders, [node.digest for node in nodes])
        for digest, names in holders.items():
            locations.add_earlier(repository, digest, [self._address.place(name).repository for name in names])

        self._add_source(reference, nodes)
        unknown = [node for node in nodes if not locations.has(repository, node.digest) and node != root]
        look = self._look_everywhere if is_suspect else self._look_for_manifest
        if is_suspect or not locations.is_new(repository):
            await run_all(partial(look, repository, node) for node in (nodes if is_suspect else unknown))

        missing = [node for node in nodes if not locations.has(repository, node.digest)]
        return await self._not_mountable(repository, missing) if self._read_only else missing

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Return True if `node` is known to be in the repository of the image."""
        return self._locations.has(self._repository(reference), node.digest)

    def dedup_key(self, reference: Reference, node: Descriptor) -> tuple[Repository, Digest]:
        """Return a key per repository."""
        return self._repository(reference), node.digest

    async def read_manifest(self, digest: Digest) -> None:
        """Return None: manifests come from the source."""

    async def recover_manifest(self, reference: Reference, digest: Digest) -> bytes | None:
        """Return a manifest of the image's repository, None if it is not there.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        try:
            return (await self._reader.manifest(self._repository(reference), digest)).raw
        except NotFound:
            return None

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[UploadSink | None]:
        """Open the upload of a blob; None once it is mounted, or if it was there already.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        repository = self._repository(reference)
        is_mounted, upload = await self._locations.mount(repository, node)
        if is_mounted:
            yield None
            return

        with self._locations.uploading(node.digest):
            if upload is None:
                is_there, upload = await self._locations.find_or_begin(repository, node)
            else:
                is_there = await self._registry.has_blob(repository, node)

            sink = UploadSink(self._registry, repository, node, self._mode, upload=upload)
            try:
                if is_there:
                    self._locations.add_blob(repository, node.digest)
                    yield None
                else:
                    yield sink
            finally:
                await sink.close()
                if sink.committed:
                    self._locations.uploaded(repository, node.digest)

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest by its digest.

        Once the registry has shown that it stores what it is sent, the root of an image is stored by its tag only,
        unless tags wait for the end of the run.

        :raises ContentMissing: if the registry lacks content that was recorded as present; the record is dropped.
        :raises QuaymirrorError: if the registry rejects it.
        """
        repository = self._repository(reference)
        self._tagging.keep(repository, node.digest, content)
        is_tagged_now = self._is_proven and not self._tagging.waits
        if not is_tagged_now or node.digest != self._roots.get(reference.name):
            await self._put(repository, str(node.digest), node, content)
            self._locations.add_content(repository, [node.digest])

    def blob_file(self, node: Descriptor) -> None:
        """Return None: blobs in a registry are not files."""

    def attachable(self) -> RegistryTarget:
        """Return the registry itself."""
        return self

    async def referrer_checks(self) -> dict[tuple[str, str, str], ReferrerCheck]:
        """Return when sources were asked for referrers; see `ReferrerTarget`."""
        self._missing = await self._missing_referrers()
        return await self._serial.run(self._state.referrer_checks)

    async def stored_subjects(self, reference: Reference) -> list[Digest]:
        """Return the digests of the manifests of an image that was pushed, its root first, as far as they are known."""
        record = await self._serial.run(self._state.image, reference.name)
        return [] if record is None else record.manifests

    async def stored_referrers(self, subjects: Iterable[Digest]) -> list[ReferrerRecord]:
        """Return the referrers of `subjects` that were pushed."""
        return await self._serial.run(self._state.referrers_of, subjects)

    async def adopt_tags(self) -> int:
        """Return 0: in a registry, digest tags are tags like others."""
        return 0

    def referrer_key(self, reference: Reference, node: Descriptor, tag: str) -> tuple[Repository, Digest, str]:
        """Return a key per repository and tag."""
        return self._repository(reference), node.digest, tag

    async def put_referrer(
        self, reference: Reference, subject: Digest, node: Descriptor, content: bytes, *, tag: str
    ) -> None:
        """Store the manifest of a referrer, by its digest tag if it has one; otherwise the registry has to list it.

        :raises QuaymirrorError: if the registry rejects it, or its list of referrers can't be kept.
        """
        repository = self._repository(reference)
        if tag:
            found = await self._registry.head_manifest(repository, tag)
            if found is None or found.digest != node.digest:
                await self._put(repository, tag, node, content)
        elif not await self._put(repository, str(node.digest), node, content):
            await self._lists.ensure(repository, subject, node, content)

        self._locations.add_content(repository, [node.digest])

    async def attach(self, attachment: Attachment) -> None:
        """Record the referrers of an image that was pushed; durable when this returns."""
        with anyio.CancelScope(shield=True):
            await self._serial.run(self._state.commit, (), [attachment])

    async def settle_referrers(self) -> None:
        """Check that no other writer has replaced a list of referrers (see `FallbackLists.settle`).

        Say how many referrers the source has lost since the last run: nothing is deleted at a registry.
        """
        await self._lists.settle()
        if new := await self._missing_referrers() - self._missing:
            names = f"{counted(len(new), 'referrer')} that the source has lost"
            text = f"{names}: they stay at the registry; prune with its address names them"
            self._observer(Notice(text, lasting=True))

    async def _missing_referrers(self) -> set[tuple[str, str, Digest, Digest]]:
        records = await self._serial.run(self._state.missing_referrers, 0.0)
        return {(each.repository, each.tag, each.subject, each.root.digest) for each in records}

    async def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities a policy accepted an image; see `Target.accepted_by`."""
        return await self._serial.run(self._state.accepted_by, name, root, policy)

    async def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image; see `Target.record_verdict`."""
        recording = partial(self._state.record_verdict, accepted=accepted, reason=reason)
        await self._serial.run(recording, name, root, policy)

    def prunable(self) -> None:
        """Return None: images are not removed."""

    def shared(self) -> Self:
        """Return the registry itself."""
        return self

    async def find_blob(self, reference: Reference, blob: Descriptor) -> bool:
        """Return True if the repository of the image `reference` has `blob`; then others mount it from there.

        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        repository = self._repository(reference)
        is_there = await self._registry.has_blob(repository, blob)
        if is_there:
            self._locations.add_blob(repository, blob.digest)

        return is_there

    def sink_unless_stored(
        self, reference: Reference, blob: Descriptor
    ) -> AbstractAsyncContextManager[UploadSink | None]:
        """Open the sink of a blob; see `sink`, which asks the registry."""
        return self.sink(reference, blob)

    async def records(self) -> list[ImageRecord]:
        """Return the images that the state has."""
        return await self._serial.run(self._state.records)

    async def commit(self, record: ImageRecord) -> None:
        """Tag an image whose content is present, and record that; or do so in `publish`, as the options say.

        The first image of a run is read back, and so are the next ones until one is there.

        :raises ContentMissing: if the registry lacks content that it confirmed, or that was recorded as present.
        :raises QuaymirrorError: if the registry rejects the tag.
        :raises StoreError: if the state can't be written.
        """
        place, root = self._address.place(record.name), record.root
        needs_tag = self._tags.pop(place, None) != root.digest and place.tag is not None
        waits = needs_tag and self._tagging.waits
        if needs_tag and not waits:
            await self._tagging.set(place, root)

        if not self._is_proven:
            async with self._proof:
                if not self._is_proven:
                    await self._prove(place, record, by_tag=not waits)

        if waits:
            self._tagging.wait(place, record)
        else:
            await self._finish(record)

        self._roots.pop(record.name, None)
        for node in record.contents:
            if not waits or node != root:
                self._tagging.drop(place.repository, node.digest)

        self._locations.drop(place.repository)

    async def publish(self) -> None:
        """Set the tags that wait for the end of the run, and record the images.

        :raises QuaymirrorError: if some of the tags can't be set; the next run sets them.
        :raises StoreError: if the state can't be written.
        """
        await self._tagging.publish(self._finish)

    async def _finish(self, record: ImageRecord) -> None:
        await self._record(record)
        self._suspects.discard(record.name)

    async def _put(self, repository: Repository, name: str, node: Descriptor, content: bytes) -> bool:
        try:
            return await self._registry.put_manifest(repository, name, node, content)
        except ContentMissing:
            self._locations.doubt(repository)
            self._locations.drop(repository)
            raise

    async def _prove(self, place: Reference, record: ImageRecord, *, by_tag: bool) -> None:
        """Check that the registry really has an image that it has confirmed.

        :raises ContentMissing: if it does not.
        """
        repository, lost = place.repository, []

        async def look(node: Descriptor) -> None:
            # Some registries tell wrong lengths.
            if not await self._registry.has_content(repository, node, any_length=True):
                lost.append(node)

        name = (place.tag if by_tag else None) or str(record.root.digest)
        if not await self._registry.reads_back(repository, name, record.root.digest):
            lost.append(record.root)
        else:
            await run_all(partial(look, node) for node in record.contents if node.digest != record.root.digest)

        if lost:
            self._suspects.add(record.name)
            self._locations.doubt(repository)
            self._locations.drop(repository)
            # The tag may be there: without this, a later run would take the image for complete.
            await self._serial.run(self._state.commit, [record])
            await self._serial.run(self._state.doubt, [record.root.digest])
            raise ContentMissing(f"{place}: the target confirmed {lost[0].digest}, but does not have it")

        self._is_proven = True

    async def _lost_referrers(self, reference: Reference, record: ImageRecord) -> list[ReferrerRecord]:
        """Return the wanted referrers of an image that were pushed and that the registry does not have any more."""
        records = await self._serial.run(self._state.attached_to, reference.repository.name, record)
        lost: list[ReferrerRecord] = []

        async def look(each: ReferrerRecord) -> None:
            found = await self._registry.head_manifest(self._repository(reference), each.tag or str(each.root.digest))
            if found is None or found.digest != each.root.digest:
                lost.append(each)

        wanted = (each for each in records if self._choice.wants_any(each.tag, each.artifact_type))
        await run_all(partial(look, each) for each in wanted)
        return lost

    def _suspect(self, reference: Reference, lost: Sequence[ReferrerRecord]) -> None:
        """Push an image again as after a verification that misses `lost`; the first one of a run is a notice."""
        if not self._has_lost:
            self._has_lost = True
            count = counted(len(lost), "referrer")
            self._observer(Notice(f"{reference.name}: {count} missing at the target; such images are pushed again"))

        self._suspects.add(reference.name)
        self._locations.doubt(self._repository(reference))

    def _repository(self, reference: Reference) -> Repository:
        return self._address.place(reference.name).repository

    def _recorded(self, reference: Reference, platforms: str) -> ImageRecord | None:
        record = self._state.image(reference.name, doubted=True)
        wanted = (reference.digest, reference.repository.registry, platforms)
        if record is None or (record.source, record.registry, record.platforms) != wanted:
            return None

        if record.root.digest in self._doubted:
            self._suspects.add(reference.name)

        if self._names.needs_history:
            self._names.load(self._state.images())

        return record if self._names.is_last(reference) else None

    async def _record(self, record: ImageRecord) -> None:
        with anyio.CancelScope(shield=True):
            await self._serial.run(self._state.commit, [record])

        self._names.record(record)

    def _add_source(self, reference: Reference, nodes: Sequence[Descriptor]) -> None:
        """Mount from the source repository if it is in this registry."""
        if reference.repository.registry == self._registry.registry:
            for node in nodes:
                if not node.is_manifest:
                    self._locations.add_earlier(self._repository(reference), node.digest, [reference.repository])

    async def _look_for(self, repository: Repository, node: Descriptor) -> bool:
        found = await self._registry.head_manifest(repository, str(node.digest))
        is_there = found is not None and found.digest == node.digest
        if is_there:
            self._locations.add_content(repository, [node.digest])

        return is_there

    async def _look_for_manifest(self, repository: Repository, node: Descriptor) -> None:
        if node.is_manifest:
            await self._look_for(repository, node)

    async def _look_everywhere(self, repository: Repository, node: Descriptor) -> None:
        if await self._registry.has_content(repository, node):
            self._locations.add_content(repository, [node.digest])

    async def _not_mountable(self, repository: Repository, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return what would have to be fetched from the source, for a dry run.

        A repository that lacks the largest blob of an image is taken for empty: one request shows that.
        """
        missing = self._locations.not_mountable(nodes)
        blobs = sorted((node for node in missing if not node.is_manifest), key=lambda node: -node.size)
        if not blobs or repository in self._empty:
            return missing

        first, *others = blobs
        if not await self._registry.has_blob(repository, first):
            self._empty.add(repository)
            return missing

        present = {first.digest}

        async def look(node: Descriptor) -> None:
            if await self._registry.has_blob(repository, node):
                present.add(node.digest)

        await run_all(partial(look, node) for node in others)
        return [node for node in missing if node.digest not in present]


def state_path(address: RegistryAddress, options: Options) -> Path:
    """Return the file with the state of pushes to `address`.

    :raises ConfigError: as `Options.state_directory`.
    """
    return options.state_directory(str(address)) / "pushed.db"


def _read_state(address: RegistryAddress, options: Options) -> tuple[State, str | None]:
    return State.open(state_path(address, options), read_only=True)


async def lock_state(
    address: RegistryAddress, context: TargetContext, stack: AsyncExitStack
) -> tuple[State, str | None]:
    """Open the state of pushes for writing, as long as `stack` is open; return it with a notice if it was damaged.

    :raises LockHeld: if another run on this machine pushes there.
    :raises StoreError: if it can't be written.
    """
    path = state_path(address, context.options)
    fsops.make_directory(path.parent)
    try:
        await stack.enter_async_context(patiently_locked(path.parent / WRITERS, context.patience))
    except LockHeld:
        raise LockHeld(f"another run on this machine pushes to {address}", side=Side.TARGET) from None

    return State.open(path)
