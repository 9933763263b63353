"""The transfer of one image from a source to a target."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from typing import Protocol

from ..catalog.base import PinnedImage
from ..errors import (
    ContentMissing,
    Failure,
    Phase,
    QuaymirrorError,
    Scope,
    Side,
    UnsupportedContent,
    most_severe,
)
from ..events import BlobFinished, ImagePlanned, Observer
from ..oci import Descriptor, Digest, Platform, Reference
from ..oci.manifest import Manifest, Node
from ..progress.meters import Meters
from ..referrers.find import Found
from ..registry.puller import ImageSource
from ..selection.rename import Renames
from ..store.records import Attachment, ImageRecord
from ..values import dataclass
from .blob import fetch_blob
from .elsewhere import BlobsElsewhere
from .graph import GraphReader, ImageGraph, platforms_key
from .sharing import BlobSharing
from .single_flight import Batch, SingleFlight
from .slots import FetchSlots, ImageSlot
from .stream import BlobJob, BlobProgress
from .target import Target


class ImageGate(Protocol):
    """Decides which images may be mirrored. Both calls come before any layer is fetched."""

    async def knows(self, image: PinnedImage, named: Reference) -> bool:
        """Return True if an image that the target has was admitted before."""

    async def admit(self, image: PinnedImage, named: Reference, graph: ImageGraph) -> None:
        """Raise `SignatureRefused` if an image must not be mirrored under the name `named`."""


@dataclass(frozen=True, slots=True)
class BroughtReferrers:
    """The referrers of an image that a run brought to the target, and the failures of others."""

    attachment: Attachment
    failures: tuple[Failure, ...] = ()
    fetched_bytes: int = 0


class ReferrerTransfers(Protocol):
    """Brings the referrers of images to the target of a run. Errors of the source are failures that are returned."""

    async def find(self, image: PinnedImage, named: Reference, manifests: Sequence[Node]) -> Found:
        """Find the referrers of an image with these manifests, called `named` at the target."""

    async def bring_to_new(self, image: PinnedImage, named: Reference, found: Found) -> BroughtReferrers:
        """Bring the referrers of an image whose content is at the target, called `named` there; its commit follows."""

    async def bring_to_stored(self, image: PinnedImage, named: Reference) -> BroughtReferrers | None:
        """Bring the referrers of an image that the target has, if it is their turn, and record them."""


@dataclass(frozen=True, slots=True)
class TransferContext:
    """The source, the target and the limits of all transfers of a run; `renames` give images their names there.

    In a dry run `counted` holds the content that images before would have fetched; otherwise it is None. `failed` are
    the blobs that the repository of an image did not bring.
    """

    source: ImageSource
    target: Target
    flights: SingleFlight[Hashable]
    slots: FetchSlots
    meters: Meters
    observer: Observer
    sharing: BlobSharing = field(default_factory=BlobSharing)
    platforms: tuple[Platform, ...] = ()
    renames: Renames = field(default_factory=Renames)
    run_id: str = ""
    counted: set[Digest] | None = None
    failed: set[Digest] = field(default_factory=set)
    elsewhere: BlobsElsewhere | None = None
    """The blobs that other processes bring; None without any."""
    referrers: ReferrerTransfers | None = None
    gate: ImageGate | None = None


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The content of one image: `manifests` in the order to store them, `blobs`, and what the target lacks.

    `moved` is True if the tag points elsewhere by now, or nowhere. `recovered` is True if the source lacks a manifest
    that the target has.
    """

    graph: ImageGraph
    manifests: tuple[Node, ...]
    blobs: tuple[Descriptor, ...]
    missing: frozenset[Digest] = frozenset()
    moved: bool = False
    configs: frozenset[Digest] = frozenset()
    recovered: bool = False

    @property
    def contents(self) -> tuple[Descriptor, ...]:
        """All content, blobs first and the root last, unless it has referrers."""
        return (*self.blobs, *(node.descriptor for node in self.manifests))

    @property
    def total_bytes(self) -> int:
        """The size of all content."""
        return sum(node.size for node in self.contents)

    @property
    def missing_nodes(self) -> list[Descriptor]:
        """The content that the target lacks."""
        return [node for node in self.contents if node.digest in self.missing]


@dataclass(slots=True)
class ImageTransfer:
    """One image on its way: it holds a fetch slot, which it releases once all of its blobs have begun.

    `fetched_bytes` counts the content that was fetched for this image: not the blobs that others were fetching already.
    """

    image: PinnedImage
    context: TransferContext
    slot: ImageSlot
    plan: ImagePlan | None = None
    """The content of the image; None if the target has it already."""
    phase: Phase = Phase.RESOLVE
    fetched_bytes: int = 0
    stored: Digest | None = None
    """The digest in the target, if it can be another one than the tag's: with one platform that of the image for it."""
    _named: Reference = field(init=False)
    """The image under its name in the target."""
    attached: BroughtReferrers | None = None
    """The referrers that this run brought, None if it looked for none."""
    known: Node | None = None
    """The manifest, if it was read before."""
    _found: Found | None = None
    """The referrers that the source has, None until they are known."""
    _lookup: tuple[Hashable, Batch[Hashable]] | None = None
    _is_referrer: bool = False
    _own: set[Digest] = field(default_factory=set)
    """Blobs whose transfer was started for this image."""

    async def run(self) -> None:
        """Mirror the image, unless the target has it. The name comes last, so that it is complete or absent.

        Its referrers come right before the name. In a dry run, the content that would be fetched is counted instead.

        :raises QuaymirrorError: if the image can't be mirrored; `phase` says where.
        """
        context, reference = self.context, self.image.reference
        self._named = context.renames.apply(reference)
        if await context.target.has_image(self._named, platforms_key(context.platforms)):
            await self._check_stored()
            return

        for is_last in (False, True):
            self.phase = Phase.RESOLVE
            self.plan = await self._make_plan()
            self.stored = self.plan.graph.root.descriptor.digest
            await self._admit(self.plan.graph)
            if self.plan.graph.is_sparse and not context.target.capabilities.takes_sparse:
                raise UnsupportedContent(
                    "the target takes no index without all of its children: mirror one --platform, or all of them",
                    side=Side.TARGET,
                )

            if context.counted is not None:
                self.fetched_bytes = self._count(self.plan, context.counted)
                return

            context.observer(self._planned(self.plan))
            self.phase = Phase.FETCH
            self._lookup = None
            await self._fetch()
            try:
                await self._publish(self.plan)
            except ContentMissing:
                # The target has lost content that it was known to have. It knows that now: plan again.
                if is_last:
                    raise
            else:
                return

    async def bring(self, named: Reference) -> ImagePlan:
        """Bring the content of a referrer to the repository of `named`, without a name; return what it is.

        :raises QuaymirrorError: if it can't be mirrored.
        """
        self._named, self._is_referrer = named, True
        for is_last in (False, True):
            self.plan = await self._make_plan()
            await self._fetch()
            try:
                # The target stores the root itself: it may need a tag.
                await self._store_all(self.plan.manifests[:-1])
            except ContentMissing:
                if is_last:
                    raise
            else:
                break

        assert self.plan is not None
        return self.plan

    async def _check_stored(self) -> None:
        context = self.context
        if len(context.platforms) == 1:
            self.stored = await context.target.stored_digest(self._named)

        if context.gate is not None and not await context.gate.knows(self.image, self._named):
            await self._admit(await self._graph_reader().read())

        if context.referrers is not None and context.counted is None:
            self.slot.release()  # each referrer needs one
            self.attached = await context.referrers.bring_to_stored(self.image, self._named)

    async def _admit(self, graph: ImageGraph) -> None:
        if self.context.gate is not None:
            await self.context.gate.admit(self.image, self._named, graph)

    @property
    def _reference(self) -> Reference:
        return self.image.reference

    def _graph_reader(self) -> GraphReader:
        context = self.context
        return GraphReader(
            self._reference,
            context.source,
            context.target.read_manifest,
            context.platforms,
            context.meters,
            self.image.is_sparse,
            partial(context.target.recover_manifest, self._named),
            known=self.known,
        )

    async def _make_plan(self) -> ImagePlan:
        target = self.context.target
        reader = self._graph_reader()
        graph = await reader.read()
        plan = ImagePlan(graph, graph.walk(), graph.blobs())
        missing = await target.missing_content(self._named, plan.contents, root=graph.root.descriptor)
        configs = frozenset(node.config.digest for node in plan.manifests if isinstance(node, Manifest))
        lacking = frozenset(node.digest for node in missing)
        return ImagePlan(graph, plan.manifests, plan.blobs, lacking, reader.moved, configs, reader.recovered)

    def _planned(self, plan: ImagePlan) -> ImagePlanned:
        blobs, _ = self._split_missing()
        own = [blob for blob in blobs if blob.digest not in plan.configs]
        missing = sum(node.size for node in plan.missing_nodes)
        own_bytes = sum(blob.size for blob in own)
        return ImagePlanned(self._reference, len(plan.blobs), plan.total_bytes, missing, len(own), own_bytes)

    def _count(self, plan: ImagePlan, counted: set[Digest]) -> int:
        """Return the bytes that would be fetched for this image; every blob is fetched for one image only."""
        sharing, target = self.context.sharing, self.context.target
        new = [
            node
            for node in plan.missing_nodes
            if node.digest not in counted and sharing.locate(node, borrower=target) is None
        ]
        counted.update(node.digest for node in new)
        return sum(node.size for node in new)

    def _start_lookup(self, plan: ImagePlan) -> None:
        """Look for the referrers while blobs are fetched: images that share a layer all end with it."""
        referrers = self.context.referrers
        if referrers is None or self._is_referrer or self._lookup is not None:
            return

        async def find() -> None:
            self._found = await referrers.find(self.image, self._named, plan.manifests)

        key = ("referrers", id(self))
        self._lookup = key, self.context.flights.start({key: find})

    async def _looked_up(self) -> Found | None:
        """Return the referrers that the source has, once it is known, None if they are not looked for.

        :raises QuaymirrorError: if they can't be looked for.
        """
        if self._lookup is None:
            return None

        key, batch = self._lookup
        await batch.settled.wait()
        if failure := batch.ended[key]:
            raise failure.error()

        return self._found

    async def _fetch(self) -> None:
        """Fetch the missing blobs, or wait for other images that are fetching them."""
        assert self.plan is not None
        flights = self.context.flights
        self._own.clear()  # of an earlier plan
        own, others = self._split_missing()
        self.slot.expect(blob.digest for blob in own)
        self._own.clear()
        for blobs in (own, others):
            left = self._keyed(blobs)
            batch = flights.start(self._fetching_all(left))
            self._start_lookup(self.plan)  # after the blobs, whose bytes take longer
            while left:
                await batch.settled.wait()
                left = self._remaining(left, batch.ended)
                batch = flights.start(self._fetching_all(left))

    def _split_missing(self) -> tuple[list[Descriptor], list[Descriptor]]:
        """Return the missing blobs, those that are being fetched already apart. The largest ones are first.

        Otherwise the last transfer to end could be the largest one.
        """
        assert self.plan is not None
        own: list[Descriptor] = []
        others: list[Descriptor] = []
        for blob in sorted(self.plan.blobs, key=lambda blob: -blob.size):
            if blob.digest in self.plan.missing:
                key = self.context.target.dedup_key(self._named, blob)
                (others if self.context.flights.is_under_way(key) else own).append(blob)

        return own, others

    def _keyed(self, blobs: Sequence[Descriptor]) -> dict[Hashable, Descriptor]:
        """Return those of `blobs` that are still missing, by their deduplication keys."""
        target, reference = self.context.target, self._named
        return {target.dedup_key(reference, blob): blob for blob in blobs if not target.has_content(reference, blob)}

    def _remaining(
        self, blobs: dict[Hashable, Descriptor], ended: dict[Hashable, Failure | None]
    ) -> dict[Hashable, Descriptor]:
        """Return the blobs that others have not brought.

        :raises QuaymirrorError: if a transfer has failed and another attempt makes no sense.
        """
        failed = [(blobs[key], failure) for key, failure in ended.items() if failure is not None]
        if failures := [failure for blob, failure in failed if self._is_final(blob, failure)]:
            raise most_severe(failures).error()

        # Others may have fetched content of another size, by their manifests.
        return self._keyed([blob for blob in blobs.values() if blob.digest not in self._own])

    def _is_final(self, blob: Descriptor, failure: Failure) -> bool:
        # The repository of another image may lack the blob or have wrong bytes, and that of this image the right ones.
        is_from_elsewhere = failure.side is Side.SOURCE and blob.digest not in self._own
        return failure.scope is Scope.RUN or not is_from_elsewhere

    def _fetching_all(self, blobs: Mapping[Hashable, Descriptor]) -> dict[Hashable, Callable[[], Awaitable[None]]]:
        return {key: self._fetching(blob) for key, blob in blobs.items()}

    def _fetching(self, blob: Descriptor) -> Callable[[], Awaitable[None]]:
        has_failed = blob.digest in self.context.failed
        job = BlobJob(self._reference.repository, blob, self._reference.name, self.slot.ticket, has_failed)
        return partial(self._fetch_blob, BlobProgress(job, self.context.meters))

    async def _fetch_blob(self, progress: BlobProgress) -> None:
        """Bring a blob to the target. This can outlive the image: others may wait for it."""
        blob = progress.blob
        self._own.add(blob.digest)
        context, target, reference = self.context, self.context.target, self._named
        is_fetched = False
        if context.elsewhere is not None and not target.has_content(reference, blob):
            self.slot.begun(blob.digest)  # a wait holds nothing
            self.fetched_bytes += await context.elsewhere.wait_for(progress.job, reference)

        # It may have arrived for another image in the meantime.
        if not target.has_content(reference, blob):
            async with target.sink(reference, blob) as sink:
                if sink is not None:
                    # Within the sink's context: otherwise two images that need the same blob could block each other.
                    async with context.sharing.exclusive(blob.digest):
                        if not await context.sharing.copy(blob, sink, borrower=target):
                            with self._noting_failure(blob):
                                await fetch_blob(progress, context.source, sink, context.slots)

                            is_fetched = True

        self.slot.begun(blob.digest)
        if is_fetched:
            self.fetched_bytes += blob.size
            is_layer = self.plan is not None and blob.digest not in self.plan.configs and not self._is_referrer
            context.observer(BlobFinished(blob.digest, blob.size, reference if is_layer else None))

    @contextmanager
    def _noting_failure(self, blob: Descriptor) -> Iterator[None]:
        try:
            yield
        except QuaymirrorError:
            self.context.failed.add(blob.digest)
            raise

    async def _publish(self, plan: ImagePlan) -> None:
        """Store the missing manifests and give the image its name."""
        self.phase = Phase.STORE
        await self._store_all(plan.manifests)
        found = await self._looked_up()
        if self.context.referrers is not None and found is not None:
            self.slot.release()
            self.attached = await self.context.referrers.bring_to_new(self.image, self._named, found)

        self.phase = Phase.COMMIT
        record = ImageRecord(
            name=self._named.name,
            registry=self._reference.repository.registry,
            source=self.image.digest,
            root=plan.graph.root.descriptor,
            contents=plan.contents,
            platforms=platforms_key(self.context.platforms),
            run=self.context.run_id,
            mirrored=time.time(),
            attached=None if self.attached is None else self.attached.attachment,
        )
        await self.context.target.commit(record)

    async def _store_all(self, nodes: Sequence[Node]) -> None:
        assert self.plan is not None
        for node in nodes:
            if node.descriptor.digest in self.plan.missing:
                await self._store(node)
                self.fetched_bytes += len(node.raw)

    async def _store(self, node: Node) -> None:
        target, descriptor = self.context.target, node.descriptor

        async def put() -> None:
            # Another repository may have the very same image.
            if not target.has_content(self._named, descriptor):
                await target.put_manifest(self._named, descriptor, node.raw)

        failure = await self.context.flights.run(target.dedup_key(self._named, descriptor), put)
        if failure is not None:
            raise failure.error()
