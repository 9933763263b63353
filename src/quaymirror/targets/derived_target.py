"""Derived images: verified content is staged beside the target, then a worker process passes it to occystrap."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread

from ..emit import calls
from ..emit.extract import mounting
from ..emit.inflate import mismatch
from ..emit.job import Destination, Emission, Job, StagedLayer
from ..emit.workers import Workers
from ..errors import EmitFailed, InvalidName, Phase, QuaymirrorError, TargetRefused, UnsupportedContent
from ..events import ImageDerived, Notice, Observer
from ..http.origin import parse_server
from ..oci import Descriptor, Digest, Index, Manifest, Reference, Repository, manifest
from ..oci.manifest import MAX_MANIFEST_BYTES
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..secret import Credentials, Secret
from ..store import fsops
from ..store.ingest import Ingest
from ..store.local_storage import LocalStorage
from ..store.lock import WRITERS, patiently_locked
from ..store.reader import LayoutReader
from ..store.receipts import DecompressedLayer, Receipt, Receipts, has_size
from ..store.records import ImageRecord
from ..transfer.target import Capabilities
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .derived_address import DerivedAddress
from .kinds import TargetContext
from .layer_cache import Compressed, LayerCache
from .provenance import ProvenancePusher, make_provenance

_MAX_CONFIG_BYTES = 32 * 1024 * 1024
# Targets on other machines or in a daemon: images can be removed or replaced there without a trace on this disk.
_REMOTE = ("registry", "docker")
# Targets with one file or directory per image.
_SEPARATE = ("tar", "oci", "mounts")
_PROXIES = (f"{kind}_proxy" for kind in ("http", "https", "all", "no"))
_REGISTRY_VARIABLES = frozenset(
    ["OCCYSTRAP_USERNAME", "OCCYSTRAP_PASSWORD", *(name for proxy in _PROXIES for name in (proxy, proxy.upper()))]
)


class DerivedTarget:
    """A target whose images are made by occystrap. Shared layers are fetched and decompressed once per run.

    Staged content is removed when the target is closed; the receipt of an image proves that it is complete.
    """

    capabilities: Capabilities = Capabilities(staging=True)

    def __init__(
        self,
        address: DerivedAddress,
        receipts: Receipts,
        stage: Stage | None,
        workers: Workers,
        observer: Observer,
        statements: ProvenancePusher | None = None,
    ) -> None:
        self._address = address
        self._recipe = address.recipe
        self._workers = workers
        self._receipts = receipts
        self._stage = stage
        self._observer = observer
        self._statements = statements
        self._known = receipts.load(str(address))
        self._layers: defaultdict[Path, dict[Digest, DecompressedLayer]] = defaultdict(dict)
        self._claimed: dict[str, str] = {}
        self._verdicts: dict[str, tuple[str, str]] = {}
        self._owners: dict[Path, str] = {}
        for receipt in self._known.values():
            self._record(receipt)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: DerivedAddress, context: TargetContext) -> AsyncIterator[Self]:
        """Open the target at `address` for writing.

        :raises ConfigError: if occystrap rejects the filters.
        :raises TargetRefused: if its directory is a byte-exact mirror.
        :raises LockHeld: if another run writes to it.
        :raises StoreError: if the disk fails.
        """
        directory = _state_directory(address)
        async with _workers(address) as workers:
            fsops.make_directory(directory)
            async with (
                patiently_locked(directory / WRITERS, context.patience),
                Stage.open(directory / "work", workers, address.split_filters[0]) as stage,
                _statements(address, context) as statements,
            ):
                yield cls(address, Receipts(directory / "derived"), stage, workers, context.observer, statements)

    @classmethod
    @asynccontextmanager
    async def inspect(cls, address: DerivedAddress, context: TargetContext) -> AsyncIterator[Self]:
        """Open the target at `address` for reading; it need not exist."""
        async with _workers(address) as workers:
            yield cls(address, Receipts(_state_directory(address) / "derived"), None, workers, context.observer)

    async def has_image(self, reference: Reference, platforms: str) -> bool:
        """Return True if `reference` was derived from the same digest by the same recipe, and the result is present.

        A registry or a daemon is asked for its digest of the image.

        :raises EmitFailed: if it doesn't answer.
        """
        receipt = self._known.get(reference.name)
        wanted = (reference.repository.registry, str(reference.digest), self._recipe)
        if receipt is None or (receipt.registry, receipt.source, receipt.recipe) != wanted:
            return False

        if not await anyio.to_thread.run_sync(receipt.is_kept, self._address.directory):
            return False

        if self._address.scheme not in _REMOTE:
            return True

        destination = self._address.destination(reference)
        name, tag = reference.repository.name, reference.tag or ""
        return receipt.identity == await self._workers.run(calls.identity, destination, name, tag) != ""

    async def stored_digest(self, reference: Reference) -> None:
        """Return None: derived images have digests of their own."""

    async def missing_content(
        self, reference: Reference, nodes: Sequence[Descriptor], *, root: Descriptor | None = None
    ) -> list[Descriptor]:
        """Return those of `nodes` that are neither staged nor at the target."""
        return [node for node in nodes if not self.has_content(reference, node)]

    def has_content(self, reference: Reference, node: Descriptor) -> bool:
        """Return True if a node is staged, or a layer that a run has left at the target."""
        staged = self._stage is not None and LayoutReader(self._stage.blobs).has(node)
        return staged or self._present_layer(self._place(reference), node.digest) is not None

    def dedup_key(self, reference: Reference, node: Descriptor) -> Digest:
        """Return the digest: all images share staged content."""
        return node.digest

    async def read_manifest(self, digest: Digest) -> bytes | None:
        """Return the content of a staged manifest, None if it is not staged."""
        return await self._stage.read(digest, MAX_MANIFEST_BYTES) if self._stage is not None else None

    @asynccontextmanager
    async def sink(self, reference: Reference, node: Descriptor) -> AsyncIterator[Ingest]:
        """Open the sink of a blob to stage; see `LocalStorage.sink`."""
        async with self._open_stage.blobs.sink(node) as ingest:
            yield ingest

    async def put_manifest(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Stage a manifest."""
        async with self.sink(reference, node) as sink:
            await sink.write(content)
            await sink.commit()

    async def publish(self) -> None:
        """Return: each image has its name when it is complete."""

    async def recover_manifest(self, reference: Reference, digest: Digest) -> None:
        """Return None: derived images have no manifests of the source."""

    def blob_file(self, node: Descriptor) -> None:
        """Return None: staged blobs are temporary."""

    def shared(self) -> None:
        """Return None: one process writes here."""

    def attachable(self) -> None:
        """Return None: signatures of the source do not apply to images with other digests."""

    async def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities a policy accepted an image; see `Target.accepted_by`."""
        receipt = self._known.get(name)
        is_same = receipt is not None and (receipt.source, receipt.policy) == (str(root), policy)
        return receipt.accepted_by if receipt is not None and is_same else None

    async def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image with its receipt; see `Target.record_verdict`."""
        verdict = (policy, reason) if accepted else ("", "")
        self._verdicts[name] = verdict
        receipt = self._known.get(name)
        if receipt is not None and receipt.source == str(root):
            judged = replace(receipt, policy=verdict[0], accepted_by=verdict[1])
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._receipts.write, judged)
                self._known[name] = judged

    def prunable(self) -> None:
        """Return None: images are not removed."""

    async def commit(self, record: ImageRecord) -> None:
        """Derive an image from its staged content; afterwards it is at the target, verified, and has its receipt.

        :raises UnsupportedContent: if it is not exactly one image with a config and layers.
        :raises DigestMismatch: if a layer doesn't match the config.
        :raises EmitFailed: if a filter, an output or the check of the result fails.
        :raises StoreError: if the disk fails.
        """
        name, _, tag = record.name.rpartition(":")
        reference = Reference(Repository(record.registry, name), tag, record.source)
        destination = self._claim(reference)
        image = await self._image(record, reference)
        await self._forget_replaced(reference)
        in_place = mounting(Path(destination.path)) if destination.scheme == "mounts" else nullcontext()
        async with in_place:
            emission, layers = await self._emit(image, destination)
            for line in emission.log:
                self._observer(Notice(f"{reference.name}: {line}"))

            self._observer(ImageDerived(reference, emission.printed, emission.findings))
            hashes = _hashes(Path(destination.path), layers)
            provenance = await anyio.to_thread.run_sync(make_provenance, self._address, record, emission, hashes)
            if self._statements is not None:
                with _noticing(self._observer, f"{record.name}: its provenance is in the receipt only"):
                    repository = destination.path.strip("/").rpartition(":")[0]
                    await self._statements.push(repository, Digest.parse(emission.identity), provenance.encode())

            receipt = self._receipt(record, destination, emission, layers, provenance)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._receipts.write, receipt)
                self._known[record.name] = receipt
                self._record(receipt)
                await self._discard_staged(image)

    @property
    def _open_stage(self) -> Stage:
        assert self._stage is not None, "open for writing"
        return self._stage

    def _record(self, receipt: Receipt) -> None:
        """Record the layers of an image that others can use, and whose files and directories are whose."""
        directory = self._address.directory
        if receipt.recipe == self._recipe:
            layers = {Digest.parse(layer.digest): layer for layer in receipt.layers}
            self._layers[directory / receipt.place].update(layers)

        if self._address.scheme in _SEPARATE:
            # An archive is one file; an unpacked image is known by a file in its directory.
            files = [directory / path for path, _ in receipt.files]
            places = files if self._address.scheme == "tar" else [file.parent for file in files]
            self._owners.update(dict.fromkeys(places, receipt.name))

    async def _forget_replaced(self, reference: Reference) -> None:
        """Forget the image of another organization whose place this one takes."""
        owner = self._known.get(self._owners.get(self._place(reference), ""))
        if owner is not None and owner.name != reference.name:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._receipts.forget, owner)

            del self._known[owner.name]

    def _claim(self, reference: Reference) -> Destination:
        """Return the destination of an image.

        :raises EmitFailed: if it is that of another one: names may differ only in a `/`; or if the image has no tag.
        """
        if reference.tag is None:
            raise EmitFailed(f"{reference.name} has no tag, which a derived image needs")

        destination = self._address.destination(reference)
        unique = destination.path
        if destination.scheme == "dir":
            unique += "\0" + reference.name.replace("/", "_")
        elif destination.scheme == "docker":
            unique = reference.name.rpartition("/")[2]  # a daemon gets only the last part of a name

        if self._claimed.setdefault(unique, reference.name) != reference.name:
            raise EmitFailed(f"{reference.name} and {self._claimed[unique]} have the same place in the target")

        return destination

    async def _image(self, record: ImageRecord, reference: Reference) -> _Image:
        content = await self.read_manifest(record.root.digest)
        root = manifest.parse_stored(content, record.root.digest) if content is not None else None
        if isinstance(root, Index):
            raise UnsupportedContent(
                f"{reference.name} has several images for {self._address.platform}: name its variant with --platform"
            )

        config = await self._open_stage.read(root.config.digest, _MAX_CONFIG_BYTES) if root is not None else None
        if root is None or config is None:
            raise UnsupportedContent(f"{reference.name}: no config of at most {_MAX_CONFIG_BYTES:,} bytes")

        return _Image(reference, root, config, _diff_ids(config, root, reference))

    async def _emit(self, image: _Image, destination: Destination) -> tuple[Emission, list[_Layer]]:
        place, stage = self._place(image.reference), self._open_stage
        staged, wanted = {}, []
        for layer, diff_id in image.layers:
            present = self._present_layer(place, layer.digest)
            if present is not None and present.diff_id != str(diff_id):
                raise mismatch(diff_id)

            if present is None:
                wanted.append(Compressed(layer.digest, diff_id, stage.blobs.path(layer.digest)))
            else:
                staged[layer.digest] = StagedLayer(layer.digest.encoded, None, present.filtered)

        name = f"{image.reference.repository.name}:{image.reference.tag or ''}"
        async with stage.layers.borrow(wanted, name) as prepared, stage.scratch() as scratch:
            staged.update(prepared)
            job = Job(
                image=image.reference.repository.name,
                tag=image.reference.tag or "",
                config_name=f"{image.manifest.config.digest.encoded}.json",
                config=image.config,
                layers=tuple(staged[node.digest] for node, _ in image.layers),
                destination=destination,
                filters=self._address.split_filters[1],
                scratch=scratch,
            )
            emission = await self._workers.run(calls.emit, job)

        return emission, [(node.digest, diff_id, staged[node.digest]) for node, diff_id in image.layers]

    def _receipt(
        self,
        record: ImageRecord,
        destination: Destination,
        emission: Emission,
        layers: Sequence[_Layer],
        provenance: str,
    ) -> Receipt:
        directory, shares_layers = self._address.directory, self._address.shares_layers
        files = tuple((str(path.relative_to(directory)), size) for path, size in emission.files)
        sizes = {Path(path).parent.name: size for path, size in files} if shares_layers else {}
        policy, accepted_by = self._verdicts.pop(record.name, ("", ""))
        kept = (
            DecompressedLayer(str(digest), str(diff_id), sizes[staged.directory], staged.filtered)
            for digest, diff_id, staged in layers
            if staged.directory in sizes
        )
        return Receipt(
            name=record.name,
            registry=record.registry,
            source=str(record.source),
            target=str(self._address),
            recipe=self._recipe,
            place=str(Path(destination.path).relative_to(directory)) if shares_layers else "",
            files=files,
            layers=tuple(kept),
            identity=emission.identity,
            provenance=provenance,
            policy=policy,
            accepted_by=accepted_by,
        )

    async def _discard_staged(self, image: _Image) -> None:
        """Remove staged layers that all images find at the target."""
        if self._address.shares_layers and "{repo}" not in self._address.path:
            for node, _ in image.layers:
                await self._open_stage.layers.discard(node.digest, self._open_stage.blobs.path(node.digest))

    def _place(self, reference: Reference) -> Path:
        return Path(self._address.destination(reference).path)

    def _present_layer(self, place: Path, digest: Digest) -> DecompressedLayer | None:
        """Return the layer if a run has left it in `place`: files of other tools may be incomplete."""
        layer = self._layers[place].get(digest) if self._address.shares_layers else None
        if layer is None:
            return None

        return layer if has_size(place / (layer.filtered or digest.encoded) / "layer.tar", layer.size) else None


_Layer = tuple[Digest, Digest, StagedLayer]
"""The digest of a layer, its digest when decompressed, and the layer as it was passed to occystrap."""


def _hashes(place: Path, layers: Sequence[_Layer]) -> Mapping[Path, str]:
    """Return the SHA-256 digests, in hex, of the files that layers become in the output `dir`."""
    return {
        place / staged.directory / "layer.tar": staged.filtered or diff_id.encoded
        for _, diff_id, staged in layers
        if staged.filtered or diff_id.algorithm == "sha256"
    }


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
    """The temporary content of one run, and its decompressed layers."""

    directory: Path
    blobs: LocalStorage
    layers: LayerCache
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, workers: Workers, filters: tuple[str, ...]) -> AsyncIterator[Self]:
        """Stage below `directory`, which is removed before (after a run was killed) and afterwards.

        `filters` are applied to each layer.

        :raises StoreError: if the disk fails.
        """
        await _remove(directory)
        blobs = LocalStorage(directory, fsync=fsops.Fsync.NEVER)
        try:
            blobs.create()
            fsops.make_directory(directory / "layers")
            fsops.make_directory(directory / "jobs")
            yield cls(directory, blobs, LayerCache(directory / "layers", workers, filters=filters))
        finally:
            await _remove(directory)

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Create a directory for the duration of the context."""
        path = self.directory / "jobs" / str(next(self.numbers))
        fsops.make_directory(path)
        try:
            yield path
        finally:
            await _remove(path)

    async def read(self, digest: Digest, limit: int) -> bytes | None:
        """Return staged content of at most `limit` bytes, None if it is missing."""
        return await self.blobs.in_thread(LayoutReader(self.blobs).read, digest, limit)


async def _remove(directory: Path) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(partial(shutil.rmtree, directory, ignore_errors=True))


@asynccontextmanager
async def _workers(address: DerivedAddress) -> AsyncIterator[Workers]:
    """Start worker processes that accept the filters of `address`; credentials are only for those of a registry."""
    async with Workers.open(passing=_REGISTRY_VARIABLES if address.scheme == "registry" else frozenset()) as workers:
        if address.filters:
            destination = Destination(address.scheme, address.host, address.path)
            await workers.run(calls.check, destination, address.filters)

        yield workers


@asynccontextmanager
async def _statements(address: DerivedAddress, context: TargetContext) -> AsyncIterator[ProvenancePusher | None]:
    """Open the registry for statements about derived images, None for another kind of target."""
    if address.scheme != "registry":
        yield None
        return

    options = context.options
    user, password = (options.client.environment.get(f"OCCYSTRAP_{key}", "") for key in ("USERNAME", "PASSWORD"))
    if user and password:
        options = options.replace(dest_credentials=Credentials(user, Secret(password), "OCCYSTRAP_USERNAME"))

    origin = parse_server(f"{'http' if address.options.get('insecure') else 'https'}://{address.host}")
    namespace = address.path.partition("{")[0].strip("/")
    async with context.connect(origin, options, context.observer, namespace=namespace) as client:
        pusher = ProvenancePusher(RegistryPusher(client), RegistryPuller(client))
        yield pusher
        with _noticing(context.observer, "a list of referrers is not complete"):
            await pusher.settle()


@contextmanager
def _noticing(observer: Observer, what: str) -> Iterator[None]:
    """Report a failure that does not matter for the image."""
    try:
        yield
    except QuaymirrorError as error:
        observer(Notice(f"{what}: {error.message}"))


def _state_directory(address: DerivedAddress) -> Path:
    if fsops.exists(address.directory / "oci-layout"):
        raise TargetRefused(f"{address.directory} is an OCI image layout: name another directory for derived images")

    return address.directory / ".quaymirror"


def _diff_ids(config: bytes, image: Manifest, reference: Reference) -> tuple[Digest, ...]:
    """Return the digests of the decompressed layers (image-spec, config.md, "rootfs")."""
    try:
        document = parse_object(config, limit=_MAX_CONFIG_BYTES, nan_is_text=True)
        diff_ids = tuple(Digest.parse(diff_id) for diff_id in document["rootfs"]["diff_ids"])
    except (InvalidDocument, TypeError, KeyError, InvalidName):
        raise UnsupportedContent(
            f"{reference.name}: not an image, its config names no layers", phase=Phase.STORE
        ) from None

    if len(diff_ids) != len(image.layers):
        raise UnsupportedContent(
            f"{reference.name}: the config names {len(diff_ids)} layers, the manifest {len(image.layers)}",
            phase=Phase.STORE,
        )

    return diff_ids
