"""A registry as a target: the same manifests byte for byte, and no blob twice over the network."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from ..errors import ContentMissing, InvalidName, LockHeld, Side, TargetRefused
from ..events import Notice, Observer
from ..oci import Descriptor, Digest, Reference, Repository
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher, Upload
from ..run.wiring import connect_target
from ..settings import Options
from ..store import fsops
from ..store.executor import SerialExecutor
from ..store.lock import WRITERS, Patience, patiently_locked
from ..store.records import ImageRecord
from ..store.state import State
from ..tasks import run_all
from ..transfer.target import Capabilities
from .registry_address import RegistryAddress
from .upload import UploadMode, UploadSink

T = TypeVar("T")

CAPABILITIES = Capabilities()

# So many mounts of what this run has put there itself, all refused: this registry does not mount.
_REFUSALS = 3


class RegistryTarget:
    """A registry that a run pushes to. What `commit` returned for is there under its name, complete.

    Registries keep blobs by repository. The first image that needs a blob uploads it; the others wait for that,
    holding nothing, and mount it. What earlier runs pushed is in the state; it is believed until the registry says
    otherwise.
    """

    def __init__(
        self,
        address: RegistryAddress,
        registry: RegistryPusher,
        reader: RegistryPuller,
        state: State,
        *,
        observer: Observer,
        read_only: bool = False,
        must_check: bool = False,
    ) -> None:
        self._address = address
        self._registry = registry
        self._reader = reader
        self._state = state
        self._observer = observer
        self._read_only = read_only
        self._must_check = must_check
        self._serial = SerialExecutor()
        self._manner = UploadMode()
        self._present: defaultdict[Repository, set[Digest]] = defaultdict(set)
        self._locations: defaultdict[Digest, list[Repository]] = defaultdict(list)
        self._ours: set[Digest] = set()
        """Uploaded by this run: whatever the state says, these are where we think."""
        self._under_way: dict[Digest, anyio.Event] = {}
        self._doubted: set[Repository] = set()
        self._tags: dict[Reference, Digest | None] = {}
        self._contents: dict[tuple[Repository, Digest], bytes] = {}
        self._taken: dict[Reference, str] = {}
        self._last: dict[Reference, str] | None = None
        """Which image was put last in each place, once somebody has asked."""
        self._has_told = False
        self._mounted, self._refused = 0, 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: RegistryAddress, settings: Options, observer: Observer, *, patience: Patience | None = None
    ) -> AsyncIterator[RegistryTarget]:
        """Open the registry at `address` for a run; for a dry run only to look. While another one does, ask `patience`.

        :raises LockHeld: when another run pushes there from here.
        :raises StoreError: when the state can't be written.
        :raises CredentialsRefused: when the registry does not take our credentials.
        :raises QuaymirrorError: when there is no registry.
        """
        async with AsyncExitStack() as stack:
            state, notice = await _locked_state(address, settings, stack, patience)
            if notice:
                observer(Notice(notice))

            async with connect_target(address.origin, settings, observer, namespace=address.namespace) as client:
                registry = RegistryPusher(client, may_write=not settings.target.dry_run)
                await registry.ping()
                yield cls(
                    address,
                    registry,
                    RegistryPuller(client),
                    state,
                    observer=observer,
                    read_only=settings.target.dry_run,
                    must_check=settings.target.check_target,
                )

    capabilities = CAPABILITIES

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Tell whether the tag points to what `reference` is pinned to: from memory, or else by one request.

        :raises QuaymirrorError: when the registry gives no usable answer.
        """
        place = self._claim(reference)
        record = await self._serial.run(self._recorded, reference, platforms)
        if record is not None and not self._must_check:
            return True

        assert place.tag is not None
        found = await self._registry.head_manifest(place.repository, place.tag)
        self._tags[place] = None if found is None else found.digest
        if record is not None and (found is None or found.digest != record.root.digest):
            # Somebody was there: nothing that we remember of this repository is worth much.
            self._doubted.add(place.repository)

        wanted = record.root.digest if record is not None else None if platforms else reference.digest
        if found is None or found.digest != wanted:
            return False

        if record is None and not self._read_only:
            assert reference.digest is not None
            registry, source = reference.repository.registry, reference.digest
            record = ImageRecord(reference.name, registry, source, found, (found,), platforms, "", time.time())
            await self._remember(record)

        self._tags.pop(place, None)
        return True

    async def missing_content(self, reference: Reference, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of `nodes` that are not in the image's repository, `root` being the last of them.

        :raises QuaymirrorError: when the registry gives no usable answer.
        """
        repository = self._claim(reference).repository
        present = self._present[repository]
        await self._look_for(repository, nodes[-1])
        if nodes[-1].digest in present:
            # No registry takes a manifest before what it points to.
            present.update(node.digest for node in nodes)
            return []

        holders = await self._serial.run(self._state.holders, [node.digest for node in nodes])
        for digest, names in holders.items():
            self._learn(digest, repository, names)

        children = [node for node in nodes[:-1] if node.is_manifest and node.digest not in present]
        await run_all(partial(self._look_for, repository, node) for node in children)
        unknown = [node for node in nodes if node.digest not in present]
        return await self._not_mountable(repository, unknown) if self._read_only else unknown

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Tell whether `node` is in the image's repository, as far as we know."""
        return node.digest in self._present[self._address.place(reference.name).repository]

    def dedup_key(self, reference: Reference, node: Descriptor) -> tuple[Repository, Digest]:
        """Each repository has its own blobs here."""
        return self._address.place(reference.name).repository, node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Manifests come from the source."""
        return None

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[UploadSink | None]:
        """Hand out the place for a blob; None once it could be mounted, or was there already.

        While another image uploads it, this waits for that, since mounting costs nothing.

        :raises QuaymirrorError: when the registry gives no usable answer.
        """
        repository = self._address.place(reference.name).repository
        is_mounted, upload = await self._mount(repository, node)
        if is_mounted:
            self._note(repository, node.digest)
            yield None
            return

        with self._lead(node.digest):
            sink = UploadSink(self._registry, repository, node, self._manner, upload=upload)
            try:
                if await self._registry.has_blob(repository, node):
                    self._note(repository, node.digest)
                    yield None
                else:
                    yield sink
            finally:
                if sink.committed:
                    self._ours.add(node.digest)
                    self._note(repository, node.digest)
                else:
                    await sink.give_up()

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest by its digest; nothing points to it yet.

        :raises ContentMissing: when something is gone that was believed to be there; now it isn't any more.
        :raises QuaymirrorError: when the registry refuses it.
        """
        repository = self._address.place(reference.name).repository
        try:
            await self._registry.put_manifest(repository, str(node.digest), node, content)
        except ContentMissing:
            self._doubted.add(repository)
            self._present.pop(repository, None)
            raise

        self._contents[repository, node.digest] = content
        self._present[repository].add(node.digest)

    def blob_file(self, node: Descriptor) -> None:
        """Return None: blobs in a registry are no files that others can copy."""

    def prunable(self) -> None:
        """Return None: images are not removed."""

    async def commit(self, record: ImageRecord) -> None:
        """Give an image, whose contents are there, its tag, and remember that.

        :raises QuaymirrorError: when the registry refuses the tag.
        :raises StoreError: when the state can't be written.
        """
        place, root = self._address.place(record.name), record.root
        assert place.tag is not None
        if self._tags.pop(place, None) != root.digest:
            await self._registry.put_manifest(place.repository, place.tag, root, await self._content(place, root))

        await self._remember(record)
        for node in record.contents:
            self._contents.pop((place.repository, node.digest), None)

        # Of thousands of repositories only those in flight are worth the memory; mounts go by the locations.
        self._present.pop(place.repository, None)

    async def _content(self, place: Reference, root: Descriptor) -> bytes:
        """The manifest was put just now, or was there already, under another tag."""
        content = self._contents.get((place.repository, root.digest))
        return content if content is not None else (await self._reader.manifest(place.repository, root.digest)).raw

    def _claim(self, reference: Reference) -> Reference:
        place = self._address.place(reference.name)
        if self._taken.setdefault(place, reference.name) != reference.name:
            raise TargetRefused(f"{reference.name} would land where {self._taken[place]} is: {place.full_name}")

        return place

    def _recorded(self, reference: Reference, platforms: str) -> ImageRecord | None:
        record = self._state.image(reference.name)
        if record is None or (record.source, record.registry, record.platforms) != (
            reference.digest,
            reference.repository.registry,
            platforms,
        ):
            return None

        return record if self._was_last(reference) else None

    def _was_last(self, reference: Reference) -> bool:
        """Tell whether no other image was put in the place of this one since: by a run for another organization."""
        if self._address.is_one_to_one:
            return True

        if self._last is None:
            records = sorted(self._state.images(), key=lambda record: record.mirrored)
            self._last = {place: record.name for record in records if (place := self._place(record.name)) is not None}

        last = self._last.get(self._address.place(reference.name), reference.name)
        if last != reference.name and not self._has_told:
            self._has_told = True
            both = (
                "images of several runs share a place, and the last one has it: put {org} and {repo} into the address"
            )
            self._observer(Notice(f"{reference.name} lost its place to {last}: {both}"))

        return last == reference.name

    def _place(self, name: str) -> Reference | None:
        try:
            return self._address.place(name)
        except InvalidName:
            return None  # no checksum guards a row

    async def _remember(self, record: ImageRecord) -> None:
        with anyio.CancelScope(shield=True):
            await self._serial.run(self._state.commit, [record])

        if self._last is not None:
            self._last[self._address.place(record.name)] = record.name

    async def _look_for(self, repository: Repository, node: Descriptor) -> None:
        found = await self._registry.head_manifest(repository, str(node.digest))
        if found is not None and found.digest == node.digest:
            self._present[repository].add(node.digest)

    def _learn(self, digest: Digest, repository: Repository, names: Iterable[str]) -> None:
        """Take note of where earlier runs left a blob."""
        for where in {self._address.place(name).repository for name in names}:
            if where in self._doubted:
                continue

            if where == repository:
                self._present[repository].add(digest)
            elif where not in self._locations[digest]:
                self._locations[digest].append(where)

    def _note(self, repository: Repository, digest: Digest) -> None:
        self._present[repository].add(digest)
        locations = self._locations[digest]
        if repository not in locations:
            locations.append(repository)

    @property
    def _can_mount(self) -> bool:
        return self._mounted > 0 or self._refused < _REFUSALS

    async def _mount(self, repository: Repository, node: Descriptor) -> tuple[bool, Upload | None]:
        """Try to mount a blob from wherever it may be; False, and an upload that a refusal began: it has to be sent."""
        upload: Upload | None = None
        while self._can_mount:
            if location := next(iter(self._locations[node.digest]), None):
                if upload is not None:
                    await self._registry.cancel(upload)

                upload = await self._registry.mount(repository, node.digest, location)
                if upload is None:
                    self._mounted += 1
                    return True, None

                self._forget(node.digest, location)
            elif landed := self._under_way.get(node.digest):
                await landed.wait()
            else:
                break

        return False, upload

    def _forget(self, digest: Digest, location: Repository) -> None:
        if digest in self._ours:
            self._refused += 1
            if self._refused == _REFUSALS and not self._mounted:
                self._observer(Notice("the target does not mount blobs: each repository gets its own upload"))

        if location in self._locations[digest]:
            self._locations[digest].remove(location)

    def _lead(self, digest: Digest) -> ExitStack:
        """Let others that need the same blob wait while the context lasts."""
        landed = self._under_way.setdefault(digest, anyio.Event())
        stack = ExitStack()

        def land() -> None:
            if self._under_way.get(digest) is landed:
                del self._under_way[digest]

            landed.set()

        stack.callback(land)
        return stack

    async def _not_mountable(self, repository: Repository, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """For a dry run: what would have to be fetched from the source."""
        here: set[Digest] = {node.digest for node in nodes if self._locations[node.digest]}

        async def look(node: Descriptor) -> None:
            if await self._registry.has_blob(repository, node):
                here.add(node.digest)

        blobs = [node for node in nodes if not node.is_manifest and node.digest not in here]
        await run_all(partial(look, node) for node in blobs)
        return [node for node in nodes if node.digest not in here]


def state_path(address: RegistryAddress, settings: Options) -> Path:
    """Return the file that says what runs have pushed to `address`.

    :raises ConfigError: as `Options.state_directory`.
    """
    return settings.state_directory(str(address)) / "pushed.db"


async def _locked_state(
    address: RegistryAddress, settings: Options, stack: AsyncExitStack, patience: Patience | None
) -> tuple[State, str | None]:
    path = state_path(address, settings)
    notice = None
    if settings.target.dry_run:
        state, notice = State.open(path, read_only=True) if path.exists() else (State.empty(), None)
    else:
        fsops.make_directory(path.parent)
        try:
            await stack.enter_async_context(patiently_locked(path.parent / WRITERS, patience))
        except LockHeld:
            raise LockHeld(f"another run from here pushes to {address}", side=Side.TARGET) from None

        state, notice = State.open(path)

    stack.callback(state.close)
    return state, notice
