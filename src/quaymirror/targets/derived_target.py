"""Derived images: what was fetched and verified is staged beside the target, then a worker process emits it."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread

from ..emit import calls
from ..emit.extract import mounting
from ..emit.inflate import mismatch
from ..emit.job import Destination, Emission, Job, StagedLayer
from ..emit.workers import Workers
from ..errors import EmitFailed, InvalidName, Phase, TargetRefused, UnsupportedContent
from ..events import ImageDerived, Notice, Observer
from ..oci import Descriptor, Digest, Index, Manifest, Reference, Repository, manifest
from ..oci.manifest import MAX_MANIFEST_BYTES
from ..store import fsops
from ..store.ingest import Ingest
from ..store.local_storage import LocalStorage
from ..store.lock import WRITERS, patiently_locked
from ..store.reader import LayoutReader
from ..store.receipts import LandedLayer, Receipt, Receipts, has_size
from ..store.records import ImageRecord
from ..transfer.target import Capabilities
from .derived_address import DerivedAddress
from .kinds import TargetContext
from .layer_cache import Compressed, LayerCache

_MAX_CONFIG_BYTES = 32 * 1024 * 1024
# Targets that are not on this machine's disk, where somebody else may have removed or replaced what we made.
_ELSEWHERE = ("registry", "docker")
# Targets where each image is a file or a directory by itself.
_PLACE_OF_ITS_OWN = ("tar", "oci", "mounts")
_PROXIES = (f"{kind}_proxy" for kind in ("http", "https", "all", "no"))
_REGISTRY_VARIABLES = frozenset(
    ["OCCYSTRAP_USERNAME", "OCCYSTRAP_PASSWORD", *(name for proxy in _PROXIES for name in (proxy, proxy.upper()))]
)


class DerivedTarget:
    """A target whose images are made by occystrap. Shared layers are fetched once and decompressed once a run.

    Everything staged is gone when it is closed; what counts is the receipt of each image.
    """

    def __init__(
        self, spec: DerivedAddress, receipts: Receipts, stage: Stage | None, workers: Workers, *, observer: Observer
    ) -> None:
        self._spec = spec
        self._workers = workers
        self._receipts = receipts
        self._stage = stage
        self._observer = observer
        self._known = receipts.load(str(spec))
        self._landed: defaultdict[Path, dict[Digest, LandedLayer]] = defaultdict(dict)
        self._taken: dict[str, str] = {}
        self._owners: dict[Path, str] = {}
        """Whose images there are, by their places, where each image has one of its own."""
        for receipt in self._known.values():
            self._note_landed(spec.directory / receipt.place, receipt.layers)
            self._own(receipt)

    @classmethod
    @asynccontextmanager
    async def open(cls, spec: DerivedAddress, context: TargetContext) -> AsyncIterator[Self]:
        """Open the target of `spec` for writing.

        :raises ConfigError: if occystrap rejects the filters.
        :raises TargetRefused: if its directory is a byte-exact mirror.
        :raises LockHeld: if another run writes to it.
        :raises StoreError: if the disk fails.
        """
        home = _home(spec)
        async with Workers.open(passing=_passing(spec)) as workers:
            await _check_filters(spec, workers)
            fsops.make_directory(home)
            async with patiently_locked(home / WRITERS, context.patience), Stage.open(home / "work", workers) as stage:
                yield cls(spec, Receipts(home / "derived"), stage, workers, observer=context.observer)

    @classmethod
    @asynccontextmanager
    async def inspect(cls, spec: DerivedAddress, context: TargetContext) -> AsyncIterator[Self]:
        """Open the target of `spec` for reading; it need not exist."""
        async with Workers.open(passing=_passing(spec)) as workers:
            await _check_filters(spec, workers)
            yield cls(spec, Receipts(_home(spec) / "derived"), None, workers, observer=context.observer)

    capabilities = Capabilities(staging=True)

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Tell whether `reference` was derived by the same recipe from the same digest, and what came of it is there.

        A registry or a daemon is asked what it has the image under.

        :raises EmitFailed: when it does not answer.
        """
        receipt = self._known.get(reference.name)
        return (
            receipt is not None
            and (receipt.registry, receipt.source, receipt.recipe)
            == (reference.repository.registry, str(reference.digest), self._spec.recipe)
            and await anyio.to_thread.run_sync(receipt.is_kept, self._spec.directory)
            and await self._is_known(reference, receipt)
        )

    async def _is_known(self, reference: Reference, receipt: Receipt) -> bool:
        if self._spec.scheme not in _ELSEWHERE:
            return True

        destination = self._spec.destination(reference)
        name, tag = reference.repository.name, reference.tag or ""
        return receipt.identity == await self._workers.run(calls.identity, destination, name, tag) != ""

    async def missing_content(self, reference: Reference, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of `nodes` that are neither staged nor at the target."""
        return [node for node in nodes if not self.has_content(reference, node)]

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Tell whether a node is staged, or at the target as a layer that one of our runs put there."""
        staged = self._stage is not None and LayoutReader(self._stage.blobs).has(node)
        return staged or self._landed_layer(self._place(reference), node.digest) is not None

    def dedup_key(self, reference: Reference, node: Descriptor) -> Digest:
        """All images share what is staged."""
        return node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Return the content of a staged manifest, None if there is none."""
        return await self._staged(digest, MAX_MANIFEST_BYTES) if self._stage is not None else None

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[Ingest]:
        """Hand out the place to stage a blob at; see `LocalStorage.sink`."""
        assert self._stage is not None
        async with self._stage.blobs.sink(node) as ingest:
            yield ingest

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Stage a manifest."""
        async with self.sink(reference, node) as sink:
            await sink.write(content)
            await sink.commit()

    def blob_file(self, node: Descriptor) -> None:
        """Return None: staged blobs are no files that others can copy."""

    def prunable(self) -> None:
        """Return None: images are not removed."""

    async def commit(self, record: ImageRecord) -> None:
        """Derive an image from what is staged; when this returns, it is at the target, checked, and has its receipt.

        :raises UnsupportedContent: when it is no image with a config and layers, or more than one.
        :raises DigestMismatch: when a layer is not what the config says.
        :raises EmitFailed: when a filter, an output, or the check of the result fails.
        :raises StoreError: when the disk refuses.
        """
        reference = _reference(record)
        destination = self._claim(reference)
        image = await self._image(record, reference)
        await self._take_over(reference)
        in_place = mounting(Path(destination.path)) if destination.scheme == "mounts" else nullcontext()
        async with in_place:
            await self._derive(record, reference, destination, image)

    async def _derive(self, record: ImageRecord, reference: Reference, destination: Destination, image: _Image) -> None:
        emission = await self._emit(image, destination)
        for line in emission.log:
            self._observer(Notice(f"{reference.name}: {line}"))

        self._observer(ImageDerived(reference, emission.printed, emission.findings))
        receipt = self._receipt(record, destination, emission, image)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._receipts.write, receipt)
            self._known[record.name] = receipt
            self._own(receipt)
            self._note_landed(self._place(reference), receipt.layers)
            await self._discard_landed(image)

    def _own(self, receipt: Receipt) -> None:
        if self._spec.scheme in _PLACE_OF_ITS_OWN:
            # An archive is one file; what is unpacked is known by a file in its directory.
            files = [self._spec.directory / path for path, _ in receipt.files]
            places = files if self._spec.scheme == "tar" else [file.parent for file in files]
            self._owners.update(dict.fromkeys(places, receipt.name))

    async def _take_over(self, reference: Reference) -> None:
        """Forget the image that a run for another organization put where this one goes: it is not there any more."""
        owner = self._known.get(self._owners.get(self._place(reference), ""))
        if owner is not None and owner.name != reference.name:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._receipts.forget, owner)

            del self._known[owner.name]

    def _claim(self, reference: Reference) -> Destination:
        """Return where the image goes, unless that is where another one went: names may differ in a `/` only."""
        destination = self._spec.destination(reference)
        unique = destination.path
        if destination.scheme == "dir":
            unique += "\0" + reference.name.replace("/", "_")
        elif destination.scheme == "docker":
            unique = reference.name.rpartition("/")[2]  # a daemon gets the last part of a name only

        if self._taken.setdefault(unique, reference.name) != reference.name:
            raise EmitFailed(f"{reference.name} and {self._taken[unique]} have the same place in the target")

        return destination

    async def _image(self, record: ImageRecord, reference: Reference) -> _Image:
        content = await self.read_manifest(record.root.digest)
        root = manifest.parse_stored(content, record.root.digest) if content is not None else None
        if isinstance(root, Index):
            raise UnsupportedContent(
                f"{reference.name} has several images for {self._spec.platform}: name its variant with --platform"
            )

        config = await self._staged(root.config.digest, _MAX_CONFIG_BYTES) if root is not None else None
        if root is None or config is None:
            raise UnsupportedContent(f"{reference.name}: no config of at most {_MAX_CONFIG_BYTES:,} bytes")

        return _Image(reference, root, config, _diff_ids(config, root, reference))

    async def _emit(self, image: _Image, destination: Destination) -> Emission:
        assert self._stage is not None
        place, blobs = self._place(image.reference), self._stage.blobs
        wanted = []
        for layer, diff_id in image.layers:
            landed = self._landed_layer(place, layer.digest)
            if landed is not None and landed.diff_id != str(diff_id):
                raise mismatch(diff_id)

            if landed is None:
                wanted.append(Compressed(layer.digest, diff_id, blobs.path(layer.digest)))

        async with self._stage.layers.borrow(wanted) as paths, self._stage.scratch() as scratch:
            job = Job(
                image=image.reference.repository.name,
                tag=image.reference.tag or "",
                config_name=f"{image.manifest.config.digest.encoded}.json",
                config=image.config,
                layers=tuple(StagedLayer(node.digest.encoded, paths.get(node.digest)) for node, _ in image.layers),
                destination=destination,
                filters=self._spec.filters,
                scratch=scratch,
            )
            return await self._stage.workers.run(calls.emit, job)

    def _receipt(self, record: ImageRecord, destination: Destination, emission: Emission, image: _Image) -> Receipt:
        directory = self._spec.directory
        files = tuple((str(path.relative_to(directory)), size) for path, size in emission.files)
        sizes = {Path(path).parent.name: size for path, size in files} if self._spec.shares_layers else {}
        return Receipt(
            name=record.name,
            registry=record.registry,
            source=str(record.source),
            target=str(self._spec),
            recipe=self._spec.recipe,
            place=str(Path(destination.path).relative_to(directory)) if self._spec.shares_layers else "",
            files=files,
            layers=tuple(
                LandedLayer(str(node.digest), str(diff_id), sizes[node.digest.encoded])
                for node, diff_id in image.layers
                if node.digest.encoded in sizes
            ),
            identity=emission.identity,
        )

    async def _discard_landed(self, image: _Image) -> None:
        """What all images find at the target needs no place beside it."""
        if not self._spec.shares_layers or "{repo}" in self._spec.path:
            return

        assert self._stage is not None
        for node, _ in image.layers:
            await self._stage.layers.discard(node.digest, self._stage.blobs.path(node.digest))

    async def _staged(self, digest: Digest, limit: int) -> bytes | None:
        assert self._stage is not None
        blobs = self._stage.blobs
        return await blobs.in_thread(LayoutReader(blobs).read, digest, limit)

    def _place(self, reference: Reference) -> Path:
        return Path(self._spec.destination(reference).path)

    def _note_landed(self, place: Path, layers: Sequence[LandedLayer]) -> None:
        self._landed[place].update({Digest.parse(layer.digest): layer for layer in layers})

    def _landed_layer(self, place: Path, digest: Digest) -> LandedLayer | None:
        """Return the layer if it is in `place` by a run of ours: what others left there may be the half of one."""
        if not self._spec.shares_layers:
            return None

        layer = self._landed[place].get(digest)
        return layer if layer is not None and has_size(place / digest.encoded / "layer.tar", layer.size) else None


@dataclass(frozen=True, slots=True)
class _Image:
    reference: Reference
    manifest: Manifest
    config: bytes = field(repr=False)
    diff_ids: tuple[Digest, ...] = ()

    @property
    def layers(self) -> list[tuple[Descriptor, Digest]]:
        return list(zip(self.manifest.layers, self.diff_ids, strict=True))


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a run stages, and who works there; see `DerivedTarget`."""

    directory: Path
    blobs: LocalStorage
    layers: LayerCache
    workers: Workers
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, workers: Workers) -> AsyncIterator[Stage]:
        """Stage below `directory`, which is new, and gone afterwards, however that comes about.

        :raises StoreError: when the disk refuses.
        """
        await _remove(directory)  # of a run that was killed
        blobs = LocalStorage(directory, fsync=fsops.Fsync.NEVER)  # it is for this run only
        try:
            blobs.create()
            fsops.make_directory(directory / "layers")
            fsops.make_directory(directory / "jobs")
            yield cls(directory, blobs, LayerCache(directory / "layers", workers), workers)
        finally:
            await _remove(directory)

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Hand out a new directory of one's own."""
        path = self.directory / "jobs" / str(next(self.numbers))
        fsops.make_directory(path)
        try:
            yield path
        finally:
            await _remove(path)


async def _remove(directory: Path) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(partial(shutil.rmtree, directory, ignore_errors=True))


def _passing(spec: DerivedAddress) -> frozenset[str]:
    return _REGISTRY_VARIABLES if spec.scheme == "registry" else frozenset()


async def _check_filters(spec: DerivedAddress, workers: Workers) -> None:
    if spec.filters:
        await workers.run(calls.check, Destination(spec.scheme, spec.host, spec.path), spec.filters)


def _home(spec: DerivedAddress) -> Path:
    if (spec.directory / "oci-layout").exists():
        raise TargetRefused(f"{spec.directory} is an OCI image layout: name another directory for derived images")

    return spec.directory / ".quaymirror"


def _reference(record: ImageRecord) -> Reference:
    name, _, tag = record.name.rpartition(":")
    return Reference(Repository(record.registry, name), tag, record.source)


def _diff_ids(config: bytes, image: Manifest, reference: Reference) -> tuple[Digest, ...]:
    """Return what the layers have to decompress to (image-spec, config.md, "rootfs")."""
    try:
        document: Mapping[str, Any] = json.loads(config)
        diff_ids = tuple(Digest.parse(diff_id) for diff_id in document["rootfs"]["diff_ids"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidName):
        raise UnsupportedContent(f"{reference.name}: no image, its config names no layers", phase=Phase.STORE) from None

    if len(diff_ids) != len(image.layers):
        raise UnsupportedContent(
            f"{reference.name}: the config names {len(diff_ids)} layers, the manifest {len(image.layers)}",
            phase=Phase.STORE,
        )

    return diff_ids
