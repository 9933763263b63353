"""Exports: parts with everything that a receiver lacks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread

from ..documents.media import ExportJson
from ..errors import ConfigError, InvalidName, MirrorDamaged, SelectionEmpty, StoreError
from ..events import Notice, Observer, ignore
from ..oci import Descriptor, Digest
from ..oci.reference import is_registry_host
from ..selection.layouts import select_images
from ..selection.source import SourceAddress
from ..store import documents, fsops
from ..store.acceptances import verdicts_by_source
from ..store.fsops import Fsync
from ..store.lookaside import stored_messages
from ..store.places import open_storage
from ..store.reader import LayoutReader
from ..store.records import Acceptance, ImageRecord
from ..store.snapshots import open_at, snapshot_images
from ..store.storage import INDEX, MARKER, blob_key
from ..trust.policy import docker_name
from ..values import dataclass
from ..zstd import compress
from . import signatures
from .attached import find_attached, subject_of
from .inventory import Inventory, parse_inventory
from .manifest import MAX_VERDICTS, CarriedBlob, Header, Manifest, needed_blobs, reference_of
from .parts import HEADER, MANIFEST, SIGNATURE, HashedFile, PartWriter, file_name, stretch_name
from .plan import RECORD, member_size, padded, place
from .progress import CarryProgress
from .records import CarryRecords

_MEDIUM_SECONDS = 2.0
# The space that the manifest may need more than a first plan says.
_RESERVE = 256 * 1024


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export. `media_size` is the size of a part in bytes, None for one part.

    `have` are inventories of receivers; only blobs that all of them have are left out. `since` is an earlier export
    that the receiver is assumed to have imported. `key` signs the manifest. `select` are names as of `select_images`.
    `at` is a snapshot as of `find_snapshot`, None for what readers see now.
    """

    have: tuple[Path, ...] = ()
    since: str = ""
    select: tuple[str, ...] = ()
    at: str | None = None
    media_size: int | None = None
    key: Path | None = None
    wait_for_medium: bool = False
    dry_run: bool = False
    fsync: Fsync = Fsync.ALWAYS


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An export: its manifest, and the files of its parts with their sizes in bytes; `kept` were written earlier."""

    manifest: Manifest
    files: tuple[tuple[Path, int], ...]
    kept: frozenset[Path] = frozenset()

    @property
    def assumed(self) -> int:
        """The number of blobs that the receiver is assumed to have."""
        return sum(not blob.stretches for blob in self.manifest.blobs)

    def to_json(self) -> ExportJson:
        """Return the export as JSON values."""
        return {
            "version": 1,
            "id": self.manifest.id,
            "images": [image.name for image in self.manifest.images],
            "carried": {
                "blobs": len(self.manifest.blobs) - self.assumed,
                "bytes": self.manifest.carried_bytes,
            },
            "assumed": {"blobs": self.assumed},
            "parts": [{"file": str(path), "size": size} for path, size in self.files],
        }


async def export_mirror(
    mirror: Path,
    to: Path,
    options: ExportOptions | None = None,
    *,
    observer: Observer = ignore,
    progress: CarryProgress | None = None,
) -> ExportResult:
    """Write what a receiver lacks of the images of `mirror` to parts in the directory `to`.

    A repeated call continues an export that broke off. Nothing waits for a run that writes to the mirror, and nothing
    that is exported is pruned meanwhile.

    :raises ConfigError: for a wrong selection, inventory, key or size, before anything is written.
    :raises SelectionEmpty: if no image is selected.
    :raises MirrorDamaged: if a blob is missing or damaged; complete parts stay.
    :raises StoreError: if `to` has too little space, or writing fails.
    """
    options = options or ExportOptions()
    export = _Export(mirror, to, options, observer, progress or CarryProgress())
    return await export.run()


class _Export:
    def __init__(self, mirror: Path, to: Path, options: ExportOptions, observer: Observer, progress: CarryProgress):
        self._mirror = mirror
        self._to = to
        self._options = options
        self._observer = observer
        self._progress = progress
        self._selections = select_images(SourceAddress("ocidir"), options.select)
        self._storage = open_storage(mirror)
        self._reader = LayoutReader(self._storage)
        self._records = CarryRecords(mirror)
        # Images share most of their layers, and a descriptor takes half a kilobyte.
        self._nodes: dict[tuple[Digest, int], Descriptor] = {}
        self._label = ""

    async def run(self) -> ExportResult:
        """Plan and write; see `export_mirror`."""
        self._storage = await anyio.to_thread.run_sync(open_at, self._mirror, self._options.at)
        self._reader = LayoutReader(self._storage)
        with ExitStack() as stack:
            images = await anyio.to_thread.run_sync(self._leased_images, stack)
            manifest, signature, sizes = await anyio.to_thread.run_sync(self._plan, images)
            names = [file_name(manifest.id, part, manifest.parts) for part in range(1, manifest.parts + 1)]
            files = tuple((self._to / name, size) for name, size in zip(names, sizes, strict=True))
            done = self._records.finished_parts(manifest.id)
            kept = frozenset(
                path for part, (path, size) in enumerate(files, 1) if part in done and self._is_kept(path, size)
            )
            if self._options.dry_run:
                return ExportResult(manifest, files, kept)

            await self._write(manifest, signature, files, kept)
            return ExportResult(manifest, files, kept)

    def _leased_images(self, stack: ExitStack) -> list[ImageRecord]:
        """Return the selected images of the published set, which are not pruned while `stack` is open."""
        known, self._label = _described(self._mirror, self._options.at)
        lease = None
        with suppress(StoreError):  # nothing is pruned on media that are read-only
            lease = stack.enter_context(self._storage.leasing())

        images: list[ImageRecord] = []

        def find() -> set[Digest]:
            images[:] = self._images(known)
            return {image.root.digest for image in images}

        try:
            if lease is None or not lease.renew(find):
                find()
        except StoreError:
            find()

        if not images:
            wanted = ", ".join(self._options.select)
            raise SelectionEmpty(f"no image in {self._storage}" + (f" matches {wanted}" if wanted else ""))

        return images

    def _images(self, known: dict[str, ImageRecord]) -> list[ImageRecord]:
        found = []
        for name, root in sorted(self._reader.index_entries(), key=lambda entry: entry[0]):
            if not root.is_manifest or subject_of(name) is not None or not self._is_selected(name):
                continue

            record = known.get(name)
            if record is None or record.root.digest != root.digest or not is_registry_host(record.registry):
                record = ImageRecord(name, "localhost", root.digest, root, ())

            try:
                reference_of(record)
            except InvalidName:
                self._observer(Notice(f"{name[:100]!r} is left out: it is not the name of an image"))
                continue

            found.append(replace(record, root=root, contents=tuple(self._contents(name, root))))

        return found + find_attached(found, self._reader.index_entries(), self._contents)

    def _is_selected(self, name: str) -> bool:
        repository, _, tag = name.partition("@")[0].rpartition(":") if "@" not in name else name.partition("@")
        return any(each.matches(repository) and each.matches_tag(tag) for each in self._selections)

    def _contents(self, name: str, root: Descriptor) -> Iterable[Descriptor]:
        def unreadable(node: Descriptor, reason: str | None) -> None:
            problem = reason or "is missing or damaged"
            raise MirrorDamaged(f"{name}: {node.digest} {problem}: use verify --repair first")

        for node in {node.digest: node for node in self._reader.walk(root, unreadable)}.values():
            known = self._nodes.get((node.digest, node.size))
            if known is None:
                if not self._reader.has(node):
                    raise MirrorDamaged(f"{name}: {node.digest} is missing: use verify --repair first")

                known = self._nodes[node.digest, node.size] = node

            yield known

    def _plan(self, images: Sequence[ImageRecord]) -> tuple[Manifest, bytes, list[int]]:
        """Return the manifest, its signature and the sizes of the parts, of an export that broke off if it fits."""
        inventories = [_read_inventory(path) for path in self._options.have]
        has, since = self._assumption(inventories)
        nodes = needed_blobs(images)
        carried = [node for node in nodes if not has(node.digest)]
        manifest = Manifest(
            id=secrets.token_hex(16),
            created=float(int(time.time())),
            parts=1,
            images=tuple(images),
            blobs=tuple(CarriedBlob(node) for node in nodes),
            inventories=tuple(inventory.id for inventory in inventories),
            since=since,
            label=self._label,
            lookaside=self._lookaside(images),
            verdicts=self._verdicts(images),
        )
        manifest = self._placed(manifest, carried)
        unfinished = next((each for each in self._records.exports() if self._is_same(each, manifest)), None)
        if unfinished is not None:
            manifest = unfinished

        content = manifest.to_bytes()
        signature = signatures.sign(content, self._options.key) if self._options.key is not None else b""
        return manifest, signature, self._sizes(manifest, content, signature)

    def _lookaside(self, images: Sequence[ImageRecord]) -> dict[tuple[str, Digest], tuple[bytes, ...]]:
        """Return the signatures by GPG keys that the mirror has for manifests of `images`."""
        wanted = {(docker_name(reference_of(image)), digest): None for image in images for digest in image.manifests}
        found = {}
        for name, digest in wanted:
            messages = stored_messages(self._storage, name, digest)
            if messages:
                found[name.repository.partition("/")[2], digest] = messages

        return found

    def _verdicts(self, images: Sequence[ImageRecord]) -> dict[str, tuple[Acceptance, ...]]:
        """Return the verdicts that accepted `images`, by their names."""
        found = verdicts_by_source(self._mirror, {image.name: image.source for image in images})
        return {name: verdicts[:MAX_VERDICTS] for name, verdicts in found.items()}

    def _placed(self, manifest: Manifest, carried: Collection[Descriptor]) -> Manifest:
        """Return `manifest` with the parts of the blobs in `carried`."""
        reserve = len(compress(manifest.to_bytes())) + 16 * len(carried) + _RESERVE
        media = self._options.media_size
        capacity = media - padded(reserve) - 2 * RECORD if media is not None else None
        if capacity is not None and capacity < 2 * 1024 * 1024:
            raise ConfigError("the list of images needs more than a part of this size: choose a larger --media-size")

        blobs, parts = place(carried, capacity)
        placed = {blob.node.digest: blob for blob in blobs}
        return replace(
            manifest, parts=parts, blobs=tuple(placed.get(blob.node.digest, blob) for blob in manifest.blobs)
        )

    def _assumption(self, inventories: Sequence[Inventory]) -> tuple[Callable[[Digest], bool], str]:
        """Return the function that says if the receivers have a blob, and the export that this one builds on."""
        if not self._options.since:
            return (lambda digest: bool(inventories) and all(each.has(digest) for each in inventories)), ""

        matching = [each for each in self._records.exports() if each.id.startswith(self._options.since)]
        if len(matching) != 1:
            known = ", ".join(each.id[:8] for each in self._records.exports()) or "none is recorded"
            raise ConfigError(f"{self._options.since!r} names no export of {self._storage}: {known}")

        earlier = matching[0]
        return (lambda digest: digest in earlier.by_digest), earlier.id

    def _is_same(self, earlier: Manifest, manifest: Manifest) -> bool:
        """Return True if `earlier` broke off, and is the same export."""
        same = replace(manifest, id=earlier.id, created=earlier.created)
        done = self._records.finished_parts(earlier.id)
        return len(done) < earlier.parts and same.to_bytes() == earlier.to_bytes()

    def _is_kept(self, path: Path, size: int) -> bool:
        """Return True if a part that was written is still there, or on a medium that is elsewhere now."""
        return self._options.wait_for_medium or _size(path) == size

    def _sizes(self, manifest: Manifest, content: bytes, signature: bytes) -> list[int]:
        sizes = [0] * manifest.parts
        for part in range(1, manifest.parts + 1):
            extras = self._extras(manifest, content, signature, part)
            sizes[part - 1] = sum(member_size(len(text)) for _, text in extras)

        for blob in manifest.blobs:
            for stretch in blob.stretches:
                sizes[stretch.part - 1] += member_size(stretch.end - stretch.start)

        return [padded(size + 1024, RECORD) for size in sizes]

    def _extras(self, manifest: Manifest, content: bytes, signature: bytes, part: int) -> list[tuple[str, bytes]]:
        """Return the members of a part that are not blobs."""
        header = Header(manifest.id, part, manifest.parts, Digest.of(content))
        members = [(HEADER, header.to_bytes()), (MANIFEST, compress(content))]
        if signature:
            members.append((SIGNATURE, signature))

        if manifest.parts == 1 and all(blob.stretches for blob in manifest.blobs):
            index = documents.project(None, manifest.images)
            members += [(MARKER, documents.OCI_LAYOUT), (INDEX, index)]

        return members

    async def _write(
        self, manifest: Manifest, signature: bytes, files: Sequence[tuple[Path, int]], kept: Collection[Path]
    ) -> None:
        await anyio.to_thread.run_sync(self._check_place, sum(size for path, size in files if path not in kept))
        try:
            await anyio.to_thread.run_sync(self._records.add_export, manifest)
        except StoreError as error:
            self._observer(Notice(f"{error.message}: this export can't be continued, nor be named by --since-export"))

        self._progress.parts = manifest.parts
        self._progress.total_bytes = manifest.carried_bytes
        for part, (path, size) in enumerate(files, 1):
            self._progress.part = part
            if path in kept:
                self._progress.bytes += _bytes_of(manifest, part)
                continue

            if self._options.wait_for_medium:
                await self._wait_for_medium(path, size, manifest.parts)

            await anyio.to_thread.run_sync(self._write_part, manifest, signature, part, path)
            with suppress(StoreError):
                self._records.finish_part(manifest.id, part)

    def _check_place(self, needed: int) -> None:
        fsops.make_directory(self._to)
        free = fsops.free_bytes(self._to)[0]
        if needed > free and not self._options.wait_for_medium:
            raise StoreError(
                f"{self._to} has {free:,} bytes free, and the parts need {needed:,}: "
                "choose a larger place, or use --media-size with --wait-for-medium"
            )

    async def _wait_for_medium(self, path: Path, size: int, parts: int) -> None:
        """Wait until a medium with enough space is at the place of `path`."""
        is_told = False
        while not _has_space(path.parent, size):
            if not is_told:
                what = f"part {self._progress.part} of {parts} needs {size:,} bytes"
                self._observer(Notice(f"insert the next medium at {path.parent}: {what}"))
                is_told = True

            await anyio.sleep(_MEDIUM_SECONDS)

    def _write_part(self, manifest: Manifest, signature: bytes, part: int, path: Path) -> None:
        content = manifest.to_bytes()
        with (
            ThreadPoolExecutor(1) as threads,
            PartWriter(path, syncs=self._options.fsync is not Fsync.NEVER) as writer,
        ):
            for name, text in self._extras(manifest, content, signature, part):
                writer.add(name, text)

            for blob in manifest.blobs:
                for stretch in blob.stretches:
                    if stretch.part == part:
                        self._add(writer, threads, blob, stretch.start, stretch.end)

    def _add(self, writer: PartWriter, threads: ThreadPoolExecutor, blob: CarriedBlob, start: int, end: int) -> None:
        node, path = blob.node, self._storage.path(blob.node.digest) or Path(str(self._storage))
        with self._reader.open(node.digest) as file:
            if end - start == node.size:
                hashed = HashedFile(file, path, threads, node.digest.hasher(), self._count)
                writer.add_file(blob_key(node.digest), hashed, node.size)
                is_right = hashed.hexdigest() == node.digest.encoded
            else:
                # A blob that is cut is read once more for its hash, with its first stretch.
                is_right = start > 0 or self._reader.verify(node)
                file.seek(start)
                hashed = HashedFile(file, path, threads, node.digest.hasher(), self._count)
                writer.add_file(stretch_name(node.digest, start, end), hashed, end - start)

        if not is_right:
            raise MirrorDamaged(f"{node.digest} in {self._storage} is damaged: use verify --repair first")

    def _count(self, size: int) -> None:
        anyio.from_thread.check_cancelled()
        self._progress.bytes += size


def _described(mirror: Path, at: str | None) -> tuple[dict[str, ImageRecord], str]:
    """Return what the state knows about the images by their names, and the label of the snapshot."""
    try:
        snapshot, records = snapshot_images(mirror, at or "latest")
    except ConfigError:
        return {}, ""  # a layout of another tool, or of an earlier release

    return {record.name: record for record in records}, snapshot.label


def _read_inventory(path: Path) -> Inventory:
    content = fsops.read_file(path)
    if content is None:
        raise ConfigError(f"no file at {path}: it should be an inventory")

    try:
        return parse_inventory(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def _bytes_of(manifest: Manifest, part: int) -> int:
    return sum(each.end - each.start for blob in manifest.blobs for each in blob.stretches if each.part == part)


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size

    return None


def _has_space(directory: Path, size: int) -> bool:
    with suppress(StoreError, OSError):
        return directory.is_dir() and fsops.free_bytes(directory)[0] >= size

    return False
