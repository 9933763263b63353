"""A target in memory: the smallest one that the contract of targets allows. One module, registered by its user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from memory_storage import MemorySink, MemoryStorage

from quaymirror.errors import LockHeld, Scope, StoreError
from quaymirror.oci import Descriptor, Digest, Reference
from quaymirror.selection.selection import Selection
from quaymirror.settings import Options
from quaymirror.store.records import ImageRecord
from quaymirror.store.storage import blob_key
from quaymirror.targets.kinds import TargetContext, TargetKind, TargetSpec
from quaymirror.transfer.target import Capabilities

CAPABILITIES = Capabilities()


@dataclass
class MemoryTarget:
    """Images in dictionaries; see `Target`."""

    storage: MemoryStorage = field(default_factory=MemoryStorage)
    images: dict[str, ImageRecord] = field(default_factory=dict)
    verdicts: dict[tuple[str, Digest, str], str] = field(default_factory=dict)
    is_open: bool = False
    capabilities = CAPABILITIES

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        record = self.images.get(reference.name)
        wanted = (reference.digest, reference.repository.registry, platforms)
        return record is not None and (record.source, record.registry, record.platforms) == wanted

    async def stored_digest(self, reference: Reference) -> Digest | None:
        return reference.digest

    async def missing_content(
        self, reference: Reference, nodes: Sequence[Descriptor], *, root: Descriptor | None = None
    ) -> list[Descriptor]:
        return [node for node in nodes if not self.has_content(reference, node)]

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        found = self.storage.info(blob_key(node.digest))
        return found is not None and found.size == node.size

    def dedup_key(self, reference: Reference, node: Descriptor) -> Digest:
        return node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        return self.storage.read(blob_key(digest))

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[MemorySink]:
        yield MemorySink(self.storage, node)

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        self.storage.put(blob_key(node.digest), content)

    async def commit(self, record: ImageRecord) -> None:
        if any(self.storage.info(blob_key(node.digest)) is None for node in record.contents):
            raise StoreError(f"{record.name} is not complete", scope=Scope.IMAGE)

        self.images[record.name] = record

    async def recover_manifest(self, reference: Reference, digest: Digest) -> None:
        return None

    async def publish(self) -> None:
        return None

    def blob_file(self, node: Descriptor) -> None:
        return None

    def shared(self) -> None:
        """Return None: one process writes here."""

    def attachable(self) -> None:
        return None

    async def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        return self.verdicts.get((name, root, policy))

    async def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        self.verdicts.pop((name, root, policy), None)
        if accepted:
            self.verdicts[name, root, policy] = reason

    def prunable(self) -> None:
        return None


_TARGETS: dict[str, MemoryTarget] = {}


@dataclass(frozen=True)
class MemorySpec(TargetSpec):
    """`memory://NAME`; see `TargetSpec`."""

    name: str
    capabilities = CAPABILITIES

    def __str__(self) -> str:
        return f"memory://{self.name}"

    def state_directory(self, settings: Options) -> Path:
        return settings.state_directory(str(self))

    @asynccontextmanager
    async def open(self, context: TargetContext) -> AsyncIterator[MemoryTarget]:
        target = _TARGETS.setdefault(self.name, MemoryTarget())
        if target.is_open:
            raise LockHeld(f"another run writes to {self}")

        target.is_open = True
        try:
            yield target
        finally:
            target.is_open = False

    def inspect(self, context: TargetContext) -> AbstractAsyncContextManager[MemoryTarget]:
        return _inspected(_TARGETS.get(self.name, MemoryTarget()))


@asynccontextmanager
async def _inspected(target: MemoryTarget) -> AsyncIterator[MemoryTarget]:
    yield target


def _locate(text: str, settings: Options) -> MemorySpec:
    return MemorySpec(text.removeprefix("memory://"))


def _parse(text: str, selection: Selection, settings: Options) -> MemorySpec:
    return _locate(text, settings)


KIND = TargetKind(lambda text, _: text.startswith("memory://"), _parse, _locate)
