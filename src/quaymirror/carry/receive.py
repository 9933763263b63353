"""Imports: blobs of parts, in any order, and the images that they complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import anyio
import anyio.to_thread

from ..documents.media import ImportJson
from ..errors import (
    ConfigError,
    ContentError,
    DoesNotFit,
    ExitCode,
    MirrorDamaged,
    QuaymirrorError,
    ReadInterrupted,
    StoreError,
    UnsupportedContent,
)
from ..events import Notice, Observer, ignore
from ..oci import Descriptor, Digest, Index, Reference
from ..store import fsops
from ..store.fsops import Fsync
from ..store.layout import OCILayout
from ..store.lock import Patience
from ..store.lookaside import store_messages, stored_messages
from ..store.promises import forget, promise
from ..store.reader import LayoutReader
from ..store.records import ImageRecord
from ..store.snapshots import SnapshotNote, take_snapshot
from ..store.state import State
from ..store.storage import BlobSink, Storage
from ..tasks import from_group
from ..text import counted
from ..trust.names import DockerName
from ..values import dataclass
from .attached import subject_of
from .manifest import Manifest, reference_of
from .parts import CHUNK_BYTES, Member, PartReader, is_part
from .progress import CarryProgress
from .records import CarryRecords

# Blobs in progress: while one is hashed and synced, the next one is read.
_BLOBS = 2
# Headers that are read at once: a call of a thread takes longer than one of them.
_MEMBERS = 64


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of an import: the file of trusted signers, and permissions to do without them."""

    allowed_signers: Path | None = None
    allow_unsigned: bool = False
    allow_older: bool = False
    check_space: bool = True
    fsync: Fsync = Fsync.ALWAYS


@dataclass(slots=True, eq=False)
class ImportResult:
    """The result of an import: names of images by outcome, and problems of parts.

    `waiting` has for each incomplete image the parts that carry what it needs, and `lacking` the blobs that the sender
    assumed here. `verdicts` is the number of verdicts of signature policies that were recorded, and `untrusted` has
    that of the images whose verdicts were ignored, by export: no allowed signer has signed it.
    """

    exports: list[str] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    waiting: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lacking: dict[Digest, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    verdicts: int = 0
    untrusted: dict[str, int] = field(default_factory=dict)
    blobs: int = 0
    bytes: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """0 if every image is here, otherwise 3."""
        return ExitCode.PARTIAL if self.waiting or self.lacking or self.problems else ExitCode.OK

    def to_json(self) -> ImportJson:
        """Return the result as JSON values."""
        return {
            "version": 1,
            "exports": self.exports,
            "imported": self.imported,
            "unchanged": self.unchanged,
            "held": self.held,
            "waiting": {name: list(parts) for name, parts in self.waiting.items()},
            "lacking": {str(digest): names for digest, names in self.lacking.items()},
            "problems": self.problems,
            "verdicts": {"recorded": self.verdicts, "ignored": sum(self.untrusted.values())},
            "stored": {"blobs": self.blobs, "bytes": self.bytes},
            "exit_code": int(self.exit_code),
        }

    def describe(self) -> Iterator[str]:
        """Iterate over lines about everything that is not complete, or was left out."""
        yield from self.problems
        for parts, count in sorted(Counter(self.waiting.values()).items()):
            if parts:
                numbers = ", ".join(map(str, parts))
                yield f"{counted(count, 'image')} {'waits' if count == 1 else 'wait'} for part {numbers}"

        if self.held:
            yield f"{counted(len(self.held), 'held image')} stay as they were: {self.held[0]}, …; see quaymirror unhold"

        if self.lacking:
            names = sorted({name for images in self.lacking.values() for name in images})
            blobs = counted(len(self.lacking), "blob")
            yield (
                f"{counted(len(names), 'image')} stay as they were ({names[0]}{', …' if len(names) > 1 else ''}): the "
                f"sender assumed {blobs} here, which this mirror lacks; `quaymirror inventory --missing` writes the "
                "request for the next trip"
            )

        for export, count in self.untrusted.items():
            images = counted(count, "image")
            yield f"verdicts about {images} are ignored: no allowed signer has signed export {export[:8]}"


async def import_parts(
    parts: Sequence[Path],
    target: Path,
    options: ImportOptions | None = None,
    *,
    observer: Observer = ignore,
    progress: CarryProgress | None = None,
    patience: Patience | None = None,
) -> ImportResult:
    """Store the blobs of `parts`, files or directories of them, in the mirror `target`, and complete images.

    Parts may come in any order, repeatedly, and from several exports; images that need more wait for a later call.

    :raises ConfigError: if a file is not a part, or if it is not signed or is older than the newest import, unless
        `options` allow it, or if a signature is wrong; nothing is written then.
    :raises LockHeld: if another run works on the mirror.
    :raises StoreError: if the mirror can't be written.
    """
    options = options or ImportOptions()
    result = ImportResult()
    with ExitStack() as stack:
        readers = await anyio.to_thread.run_sync(_open_all, parts, stack, result.problems)
        # The manifests are checked before anything is written.
        records, signers = CarryRecords(target), dict[str, str]()
        for reader in _distinct(readers):
            signer = await anyio.to_thread.run_sync(_check, reader, records, options, observer)
            signers[reader.manifest.id] = signer

        opening = OCILayout.open(
            target, observer=observer, fsync=options.fsync, checks_space=options.check_space, patience=patience
        )
        async with opening as layout:
            run = _Import(layout, records, readers, signers, result, progress or CarryProgress())
            return await run.run()


class _Import:
    def __init__(
        self,
        layout: OCILayout,
        records: CarryRecords,
        readers: Sequence[PartReader],
        signers: Mapping[str, str],
        result: ImportResult,
        progress: CarryProgress,
    ) -> None:
        self._layout = layout
        self._records = records
        self._readers = readers
        self._signers = signers
        self._progress = progress
        self._result = result

    async def run(self) -> ImportResult:
        """Store all blobs, then commit all images that are complete."""
        for reader in _distinct(self._readers):
            self._result.exports.append(reader.manifest.id)
            await self._layout.use(partial(self._begin, reader.manifest))

        self._progress.parts = len(self._readers)
        self._progress.total_bytes = sum(map(_carried_bytes, self._readers))
        for number, reader in enumerate(self._readers, 1):
            self._progress.part, problems = number, len(self._result.problems)
            await self._store_part(reader)
            if len(self._result.problems) == problems:
                finish = partial(self._records.finish_part, directory="imports")
                await anyio.to_thread.run_sync(finish, reader.manifest.id, reader.header.part)

        # All signers before the first end: one import can end others, of the same second too, and their records.
        for manifest, signer in await anyio.to_thread.run_sync(self._waiting):
            await self._complete(manifest, signer)

        return self._result

    async def _store_part(self, reader: PartReader) -> None:
        """Store the blobs of one part that are missing; one damaged member does not prevent the others."""
        nodes = [blob.node for blob in reader.manifest.blobs]
        try:
            missing = {node.digest: node for node in await self._layout.missing_content(self._name(reader), nodes)}
        except DoesNotFit as error:
            raise StoreError(error.message) from None

        limiter = anyio.Semaphore(_BLOBS)
        members = reader.members()
        try:
            async with anyio.create_task_group() as tasks:
                while found := await anyio.to_thread.run_sync(self._next, members):
                    for member in found:
                        if member.digest in missing:
                            await limiter.acquire()
                            tasks.start_soon(self._store_member, reader, missing[member.digest], member, limiter)
                        else:
                            self._progress.bytes += member.size
        except BaseExceptionGroup as group:
            raise from_group(group) or group from None

    def _next(self, members: Iterator[Member]) -> list[Member]:
        """Return the next members, none at the end."""
        found: list[Member] = []
        try:
            found.extend(islice(members, _MEMBERS))
        except MirrorDamaged as error:
            self._result.problems.append(error.message)

        return found

    async def _store_member(
        self, reader: PartReader, node: Descriptor, member: Member, limiter: anyio.Semaphore
    ) -> None:
        try:
            await self._receive(reader, node, member)
        except (ContentError, ReadInterrupted):
            self._result.problems.append(f"{reader.path}: {node.digest} is damaged: copy this part again")
        except DoesNotFit as error:
            raise StoreError(error.message) from None
        finally:
            limiter.release()

    async def _receive(self, reader: PartReader, node: Descriptor, member: Member) -> None:
        async with self._layout.sink(self._name(reader), node) as sink:
            if (member.start, member.size) == (0, node.size):
                if sink.offset:
                    await sink.reset()

                await sink.receive(self._chunks(reader, member, 0, node.size))
                await sink.commit()
            else:
                await self._receive_stretch(reader, member, sink)

        if sink.committed:
            self._result.blobs += 1
            self._result.bytes += node.size

    async def _receive_stretch(self, reader: PartReader, member: Member, sink: BlobSink) -> None:
        """Write the missing bytes of a stretch, and store the blob if nothing else is."""
        segments = sink.segments()
        if segments is None:
            raise ReadInterrupted("a blob that is too small for it is cut")

        for gap_start, gap_end in segments.gaps():
            start, end = max(gap_start, member.start), min(gap_end, member.start + member.size)
            if start < end:
                segment = await segments.segment(start, end)
                await segment.receive(self._chunks(reader, member, start - member.start, end - start))
                await segment.flush()

        if not segments.gaps():
            await sink.commit()

    async def _chunks(self, reader: PartReader, member: Member, offset: int, size: int) -> AsyncIterator[bytes]:
        while size > 0:
            chunk = await anyio.to_thread.run_sync(reader.read, member, offset, min(size, CHUNK_BYTES))
            if not chunk:
                break

            self._progress.bytes += len(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
            yield chunk

    @staticmethod
    def _name(reader: PartReader) -> Reference:
        """Return the name of any image of the export: a layout stores all blobs in one place."""
        return reference_of(reader.manifest.images[0])

    def _waiting(self) -> list[tuple[Manifest, str]]:
        """Return the imports that wait for parts, the oldest first, with their allowed signers."""
        return [(manifest, self._records.signer(manifest.id)) for manifest in self._records.imports()]

    async def _complete(self, manifest: Manifest, signer: str) -> None:
        """Commit the images of `manifest` that are complete, and end the import if all of them are."""
        waits, imported, judged = False, len(self._result.imported), list[str]()
        records, held = await self._layout.use(_known)
        for image in manifest.images:
            lacking = await self._layout.missing_content(reference_of(image), image.contents)
            if lacking:
                waits = True
                self._wait(manifest, image, lacking)
                continue

            here = records.get(image.name)
            if here is not None and (here.root.digest, here.platforms) == (image.root.digest, image.platforms):
                self._result.unchanged.append(image.name)
                judged += [image.name] if here.source == image.source else []
                continue

            if image.name in held:
                self._result.held.append(image.name)
                continue

            try:
                await self._layout.use(partial(_check_contents, image))
            except QuaymirrorError as error:
                waits = True
                self._result.problems.append(f"{image.name}: {error.message}")
                continue

            await self._layout.commit(replace(image, mirrored=time.time(), run=manifest.id[:8]))
            judged.append(image.name)
            if subject_of(image.name) is None:
                self._result.imported.append(image.name)

        await self._layout.use(partial(_keep_signatures, manifest, set(self._result.waiting)))
        await self._layout.use(partial(self._keep_verdicts, manifest, signer, judged))
        await self._layout.adopt_tags()
        if len(self._result.imported) > imported:
            note = SnapshotNote("import", manifest.id[:8], manifest.label, complete=not waits)
            await self._layout.use(partial(take_snapshot, note=note))

        if not waits:
            await self._layout.use(partial(self._finish, manifest))

    def _begin(self, manifest: Manifest, storage: Storage, _: State) -> None:
        promise(storage, manifest.id, manifest.by_digest)
        signer = self._signers[manifest.id]
        if manifest.verdicts and not signer:
            self._result.untrusted[manifest.id] = len(manifest.verdicts)

        self._records.add_import(manifest, signer)

    def _finish(self, manifest: Manifest, storage: Storage, _: State) -> None:
        obsolete = self._records.finish_import(manifest)
        for identifier in (*obsolete, *manifest.inventories):
            forget(storage, identifier)

    def _keep_verdicts(self, manifest: Manifest, signer: str, names: Sequence[str], _: Storage, state: State) -> None:
        """Record the sender's verdicts about the images with these `names`, which are here as it has judged them."""
        found = [verdict for name in names for verdict in manifest.verdicts.get(name, ())]
        if signer:
            origin = f"export {manifest.id[:8]} signed by {signer}"
            told = (replace(each, origin=", ".join(filter(None, (origin, each.origin)))) for each in found)
            self._result.verdicts += sum(state.adopt_verdict(each) for each in told)

    def _wait(self, manifest: Manifest, image: ImageRecord, lacking: Sequence[Descriptor]) -> None:
        parts, read = set[int](), self._records.finished_parts(manifest.id, directory="imports")
        for node in lacking:
            stretches = manifest.by_digest[node.digest].stretches
            parts.update(stretch.part for stretch in stretches)
            if not stretches:
                self._result.lacking.setdefault(node.digest, []).append(image.name)

        self._result.waiting[image.name] = tuple(sorted(parts - read or parts))


def _known(_: Storage, state: State) -> tuple[dict[str, ImageRecord], set[str]]:
    """Return the images by their names, and the names that are held."""
    return {record.name: record for record in state.images()}, {hold.name for hold in state.holds()}


def _keep_signatures(manifest: Manifest, waiting: Collection[str], storage: Storage, _: State) -> None:
    """Store the signatures by GPG keys for all images but those that are `waiting`."""
    complete = {digest for image in manifest.images if image.name not in waiting for digest in image.manifests}
    for (repository, digest), messages in manifest.lookaside.items():
        name = DockerName(f"localhost/{repository}")
        if digest in complete and stored_messages(storage, name, digest) != messages:
            store_messages(storage, name, digest, messages)


def is_archive(path: Path) -> bool:
    """Return True if `path` is a file that is no part of an export: an oci-archive or docker-archive, perhaps.

    :raises StoreError: if it can't be read.
    """
    with fsops.local_errors("read", path):
        if path.is_dir():
            return False

    with fsops.open_for_reading(path) as file:
        return not is_part(file)


def _open_all(parts: Sequence[Path], stack: ExitStack, problems: list[str]) -> list[PartReader]:
    """Open all parts; damaged ones are problems, unless all of them are.

    :raises ConfigError: if a file is not a part, or none can be read.
    """
    readers = []
    for path in _files(parts):
        file = stack.enter_context(fsops.open_for_reading(path))
        if not is_part(file):
            raise ConfigError(f"{path} is not a part of an export")

        try:
            readers.append(PartReader(file, path))
        except ConfigError as error:
            problems.append(error.message)

    if not readers:
        raise ConfigError(problems[0])

    return readers


def _files(parts: Sequence[Path]) -> Iterator[Path]:
    for path in parts:
        with fsops.local_errors("read", path):
            found = sorted(path.glob("quaymirror-*.tar")) if path.is_dir() else [path]

        if not found:
            raise ConfigError(f"no part of an export in {path} (quaymirror-….tar)")

        yield from found


def _distinct(readers: Sequence[PartReader]) -> list[PartReader]:
    """Return one reader of each export, the oldest export first."""
    return sorted({reader.manifest.id: reader for reader in readers}.values(), key=lambda each: each.manifest.created)


def _check(reader: PartReader, records: CarryRecords, options: ImportOptions, observer: Observer) -> str:
    """Check that an export is signed, and not older than the newest one that was imported; see `import_parts`.

    Return the allowed signer, "" if it is not signed or signers are not looked at.
    """
    signer = reader.signer(options.allowed_signers)
    if not options.allow_unsigned:
        if signer is None:
            raise ConfigError(f"{reader.path} is not signed: pass --allow-unsigned to import it nevertheless")

        if not signer:
            raise ConfigError(
                "name the signers to trust: --allowed-signers FILE, as of ssh-keygen, or --allow-unsigned"
            )

    if signer:
        observer(Notice(f"export {reader.manifest.id[:8]} is signed by {signer}"))

    created, latest = records.latest_import()
    if reader.manifest.created < created and reader.manifest.id != latest and not options.allow_older:
        raise ConfigError(
            f"{reader.path} was exported before {latest[:8]}, which is imported already: pass --allow-older to go back"
        )

    return signer or ""


def _carried_bytes(reader: PartReader) -> int:
    stretches = (each for blob in reader.manifest.blobs for each in blob.stretches)
    return sum(each.end - each.start for each in stretches if each.part == reader.header.part)


def _check_contents(image: ImageRecord, storage: Storage, _: State) -> None:
    """Check that the contents of `image`, all of them stored, are everything that it needs.

    Children of an index may be left out, but not all of them.

    :raises UnsupportedContent: if they are not.
    """
    reader, known = LayoutReader(storage), {node.digest for node in image.contents}
    queue = [image.root]
    while queue:
        node = queue.pop()
        parsed = reader.manifest(node) if node.is_manifest else None
        if node.digest not in known or (node.is_manifest and parsed is None):
            raise UnsupportedContent(f"the export does not list {node.digest}, which the image needs")

        if isinstance(parsed, Index):
            kept = [child for child in parsed.manifests if child.digest in known]
            queue += kept or parsed.manifests
        elif parsed is not None:
            queue += parsed.blobs
