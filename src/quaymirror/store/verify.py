"""Verification that a layout has everything that its index lists: all content is read and hashed again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread

from ..documents.verification import RefusalJson, VerificationJson
from ..errors import ExitCode, MirrorDamaged, StoreError, is_lack
from ..oci import Descriptor, Digest
from ..tasks import run_all
from ..values import dataclass
from .places import open_storage
from .reader import LayoutReader
from .records import ImageRecord
from .state import State
from .storage import Storage

# Blobs per call of a thread: for small blobs the call would take longer than the work.
_BATCH_BLOBS = 256
_BATCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is `missing` or `damaged`, and the `images` (by name) that need it.

    At a registry, it may also be `replaced` under its tag, or `unlisted`: a referrer that clients can't find.
    """

    kind: str
    digest: Digest
    images: tuple[str, ...]
    node: Descriptor | None = None
    """The blob's descriptor, for damages of a layout."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that a signature policy refuses, with a reason per key or identity."""

    name: str
    digest: Digest
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification. `blobs` includes manifests, each once; `bytes` is their total size.

    `orphans` are files under `blobs/` that no image needs, `partials` interrupted transfers: their number and size.
    `fast`: only manifests were hashed, of other blobs the sizes were compared.
    """

    images: int
    blobs: int
    bytes: int
    damages: tuple[Damage, ...]
    orphans: tuple[int, int] = (0, 0)
    partials: tuple[int, int] = (0, 0)
    fast: bool = False
    refused: int = 0
    """The number of images of a registry that could not be checked, because access was denied."""
    refusal: str = ""
    """The reason of the first of these."""
    accepted: int | None = None
    """The number of images that the signature policy accepts, None without a policy; `unaccepted` are the others."""
    unaccepted: tuple[Refusal, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this result."""
        if self.damages:
            return ExitCode.DAMAGED

        if self.refused:
            return ExitCode.CREDENTIALS if self.refused == self.images else ExitCode.PARTIAL

        return ExitCode.PARTIAL if self.unaccepted else ExitCode.OK

    def to_json(self) -> VerificationJson:
        """Return the result as JSON values."""
        document: VerificationJson = {
            "images": self.images,
            "blobs": self.blobs,
            "bytes": self.bytes,
            "fast": self.fast,
            "refused": self.refused,
            "damages": [
                {"kind": damage.kind, "digest": str(damage.digest), "images": list(damage.images)}
                for damage in self.damages
            ],
            "orphans": {"files": self.orphans[0], "bytes": self.orphans[1]},
            "partials": {"files": self.partials[0], "bytes": self.partials[1]},
        }
        if self.accepted is not None:
            refusals: list[RefusalJson] = [
                {"image": each.name, "digest": str(each.digest), "reasons": list(each.reasons)}
                for each in self.unaccepted
            ]
            document["signatures"] = {"accepted": self.accepted, "refused": refusals}

        return document


@dataclass(slots=True)
class Progress:
    """The progress of a verification, for sampling. The totals are 0 until they are known."""

    blobs: int = 0
    bytes: int = 0
    total_blobs: int = 0
    total_bytes: int = 0


async def verify_layout(root: Path, *, fast: bool = False, progress: Progress | None = None) -> Verification:
    """Verify the mirror whose directory is `root`, as its state says; see `verify_storage`."""
    recorded = await anyio.to_thread.run_sync(_recorded, root)
    return await verify_storage(open_storage(root), recorded, fast=fast, progress=progress)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The records of a state: the images of the layout, which the index may lack, and all content that is needed.

    An image whose content is incomplete is left out of the index. Earlier snapshots need content, too.
    """

    images: Sequence[ImageRecord] = ()
    needed: Collection[Digest] = ()


def _recorded(root: Path) -> Recorded:
    path = root / ".quaymirror" / "state.db"
    if not path.is_file():
        return Recorded()

    state, _ = State.open(path, read_only=True)
    with closing(state):
        return Recorded(state.visible_images(), state.needed().keys())


async def verify_storage(
    storage: Storage, recorded: Recorded | None = None, *, fast: bool = False, progress: Progress | None = None
) -> Verification:
    """Hash everything that the images of a layout need, `recorded` ones included; if `fast`, only manifests.

    A run may add images in the meantime: the index is read once, at the start. Missing children of an index are no
    damage if others are present: such an image was mirrored for some platforms only.

    :raises MirrorDamaged: if the index is missing or can't be parsed.
    :raises LockHeld: if blobs are being deleted.
    :raises StoreError: if the disk fails.
    """
    with storage.reading():
        return await _Check(storage, recorded or Recorded(), fast, progress or Progress()).run()


class _Check:
    """One verification."""

    def __init__(self, storage: Storage, recorded: Recorded, fast: bool, progress: Progress) -> None:
        self._storage = storage
        self._recorded = recorded
        self._reader = LayoutReader(storage)
        self._fast = fast
        self._progress = progress
        self._entries: list[tuple[str, Descriptor]] = []
        self._nodes: dict[Digest, Descriptor] = {}
        self._broken: dict[Digest, str] = {}
        # Manifests that the walk has not read: the others are right.
        self._unread: set[Digest] = set()

    async def run(self) -> Verification:
        await anyio.to_thread.run_sync(self._walk_all)
        progress, nodes = self._progress, self._nodes
        progress.blobs = progress.bytes = 0
        progress.total_blobs, progress.total_bytes = len(nodes), sum(node.size for node in nodes.values())
        await self._check_all()
        images = await anyio.to_thread.run_sync(self._images_with, self._broken.keys())
        return Verification(
            images=len(self._entries),
            blobs=len(nodes),
            bytes=progress.total_bytes,
            damages=tuple(
                Damage(kind, digest, tuple(sorted(images[digest])), nodes[digest])
                for digest, kind in sorted(self._broken.items())
            ),
            orphans=await anyio.to_thread.run_sync(self._orphans),
            partials=_total(info.size for info in await anyio.to_thread.run_sync(self._storage.partials)),
            fast=self._fast,
        )

    def _walk_all(self) -> None:
        entries = self._reader.index_entries()
        names = {name for name, _ in entries}
        self._entries = entries + [(each.name, each.root) for each in self._recorded.images if each.name not in names]
        for _, root in self._entries:
            self._nodes.update((node.digest, node) for node in self._reader.walk(root, self._note_unreadable))

    def _images_with(self, digests: Collection[Digest]) -> dict[Digest, set[str]]:
        """Return the names of the images that need each of `digests`, which are few: only these are remembered."""
        found: defaultdict[Digest, set[str]] = defaultdict(set)
        for name, root in self._entries if digests else ():
            for node in self._reader.walk(root, lambda *_: None):
                if node.digest in digests:
                    found[node.digest].add(name)

        return found

    def _note_unreadable(self, node: Descriptor, reason: str | None) -> None:
        if reason is None:
            self._unread.add(node.digest)  # the check of its content reports it
        else:
            self._broken[node.digest] = "damaged"

    async def _check_all(self) -> None:
        """Check all blobs, with one task per CPU: hashing releases the interpreter lock."""
        batches = _batches(self._nodes.values())

        async def check() -> None:
            for batch in batches:
                self._broken.update(await anyio.to_thread.run_sync(self._check, batch))
                self._progress.blobs += len(batch)
                self._progress.bytes += sum(node.size for node in batch)

        await run_all([check] * (os.cpu_count() or 2))

    def _check(self, nodes: list[Descriptor]) -> dict[Digest, str]:
        return {node.digest: damage for node in nodes if (damage := self._damage(node))}

    def _damage(self, node: Descriptor) -> str:
        reader = self._reader
        is_read = (not node.is_manifest and not self._fast) or node.digest in self._unread
        try:
            if reader.has(node) and (not is_read or reader.verify(node)):
                return ""

            return "damaged" if reader.exists(node.digest) else "missing"
        except (StoreError, MirrorDamaged) as error:
            if is_lack(error):
                raise

            return "damaged"

    def _orphans(self) -> tuple[int, int]:
        needed = self._nodes.keys() | self._recorded.needed
        return _total(info.size for info, _ in self._reader.list_blobs(besides=needed))


def _batches(nodes: Iterable[Descriptor]) -> Iterator[list[Descriptor]]:
    batch: list[Descriptor] = []
    size = 0
    for node in nodes:
        if batch and (len(batch) == _BATCH_BLOBS or size + node.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0

        batch.append(node)
        size += node.size

    if batch:
        yield batch


def _total(sizes: Iterable[int]) -> tuple[int, int]:
    all_sizes = list(sizes)
    return len(all_sizes), sum(all_sizes)
