"""One image: what it consists of, and how it gets to the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import anyio

from ..errors import (
    AccessDenied,
    ContentMissing,
    Failure,
    NotFound,
    Phase,
    PlatformNotFound,
    QuaymirrorError,
    UnsupportedContent,
    most_severe,
)
from ..events import BlobFinished, ImagePlanned, Observer
from ..oci import Descriptor, Digest, Index, Manifest, Platform, Reference, manifest
from ..oci.manifest import Node
from ..progress.meters import Meters
from ..registry.pull import RegistryPuller, check_expected
from ..store.records import ImageRecord
from ..tasks import run_all
from .blob import fetch_blob
from .sharing import BlobSharing
from .single_flight import SingleFlight
from .target import Target


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What mirroring one image means: `manifests` with children before parents, `root` last, and every blob once.

    `missing` are the manifests and blobs that the target does not have; `moved` says that the tag points elsewhere by
    now, or nowhere.
    """

    reference: Reference
    root: Node
    manifests: tuple[Node, ...]
    blobs: tuple[Descriptor, ...]
    missing: tuple[Descriptor, ...] = ()
    moved: bool = False

    @property
    def contents(self) -> tuple[Descriptor, ...]:
        """Everything that belongs to the image, blobs first."""
        return (*self.blobs, *(node.descriptor for node in self.manifests))

    @property
    def total_bytes(self) -> int:
        """The size of all of it."""
        return sum(node.size for node in self.contents)

    @property
    def missing_bytes(self) -> int:
        """The size of what has to be fetched."""
        return sum(node.size for node in self.missing)


@dataclass(slots=True)
class Fetched:
    """How many bytes one image caused to be fetched; blobs that others were fetching already are not among them."""

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Transfers:
    """What all transfers of a run share: where from, where to, and the limits between them."""

    source: RegistryPuller
    target: Target
    flights: SingleFlight[Hashable]
    slots: anyio.CapacityLimiter
    meters: Meters
    observer: Observer
    pool: BlobSharing = field(default_factory=BlobSharing)
    platforms: tuple[Platform, ...] = ()
    run_id: str = ""


@dataclass(slots=True)
class _Graph:
    """An image while its manifests are being found."""

    reference: Reference
    found: dict[Digest, Node] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    """What an index names and the registry has as a blob."""
    children: int = 0
    manifest_bytes: int = 0
    moved: bool = False


def platforms_key(platforms: Iterable[Platform]) -> str:
    """Return what the state remembers of a choice of platforms: the same text for the same choice."""
    return ",".join(sorted({str(platform) for platform in platforms}))


async def plan_image(reference: Reference, transfers: Transfers) -> ImagePlan:
    """Find out what `reference`, which is pinned, consists of, and what of that is missing at the target.

    :raises PlatformNotFound: when it is an index without any of the wanted platforms.
    :raises UnsupportedContent: when it can't be mirrored.
    :raises NotFound, AccessDenied: when a manifest is gone.
    :raises QuaymirrorError: when a manifest can't be had.
    """
    assert reference.digest is not None
    graph = _Graph(reference)
    root = await _root(graph, transfers, reference.digest)
    if isinstance(root, Index) and transfers.platforms:
        chosen = _chosen(root, transfers.platforms, reference)
        if len(chosen) == 1:
            # As crane and skopeo have it: one platform of an index is an image by itself, which any reader takes.
            root = await _manifest(graph, transfers, chosen[0].digest, chosen[0])

    await _descend(graph, transfers, root, depth=1)
    manifests = _children_first(root, graph.found)
    blobs = graph.blobs | {blob.digest: blob for node in manifests if isinstance(node, Manifest) for blob in node.blobs}
    if len(blobs) > manifest.MAX_IMAGE_BLOBS:
        raise UnsupportedContent(f"{reference}: {len(blobs):,} blobs; the limit is {manifest.MAX_IMAGE_BLOBS:,}")

    plan = ImagePlan(reference, root, tuple(manifests), tuple(blobs.values()))
    missing = await transfers.target.missing_content(reference, plan.contents)
    return replace(plan, missing=tuple(missing), moved=graph.moved)


async def mirror_image(
    reference: Reference, transfers: Transfers, waits: Callable[[], None] = lambda: None
) -> tuple[ImagePlan, Fetched]:
    """Bring `reference`, which is pinned, to the target, complete and named.

    Blobs come in parallel; manifests are stored after what they point to, and the name comes last. `waits` is called
    when nothing is left to begin: what is missing is on its way, for this image or for others.

    :raises QuaymirrorError: what `plan_image` or `fetch_blob` raised, with its phase; nothing was named then.
    """
    try:
        return await _mirror(reference, transfers, waits)
    except ContentMissing:
        # The target lacks what it was believed to have, and it knows that now: look again, and bring all of it.
        return await _mirror(reference, transfers, waits)


async def _mirror(reference: Reference, transfers: Transfers, waits: Callable[[], None]) -> tuple[ImagePlan, Fetched]:
    assert reference.digest is not None
    with _phase(Phase.RESOLVE):
        plan = await plan_image(reference, transfers)

    transfers.observer(ImagePlanned(reference, len(plan.blobs), plan.total_bytes, plan.missing_bytes))
    fetched = Fetched()
    missing = {node.digest for node in plan.missing}
    with _phase(Phase.FETCH):
        blobs = [blob for blob in plan.blobs if blob.digest in missing]
        coming = {blob.digest for blob in blobs if _is_coming(blob, reference, transfers)}
        own = [blob for blob in blobs if blob.digest not in coming]
        await _fetch_blobs(own, reference, transfers, fetched, waits)
        left = [blob for blob in blobs if blob.digest in coming and not transfers.target.has_content(reference, blob)]
        await _fetch_blobs(left, reference, transfers, fetched)

    with _phase(Phase.STORE):
        for node in plan.manifests:
            if node.descriptor.digest in missing:
                await _put_once(node, reference, transfers)
                fetched.bytes += len(node.raw)

    record = ImageRecord(
        name=reference.name,
        registry=reference.repository.registry,
        source=reference.digest,
        root=plan.root.descriptor,
        contents=plan.contents,
        platforms=platforms_key(transfers.platforms),
        run=transfers.run_id,
        mirrored=time.time(),
    )
    with _phase(Phase.COMMIT):
        await transfers.target.commit(record)

    return plan, fetched


async def _root(graph: _Graph, transfers: Transfers, digest: Digest) -> Node:
    content = await transfers.target.read_manifest(digest)
    if content is not None:
        node: Node = manifest.parse_stored(content, digest)
    else:
        node, graph.moved = await transfers.source.root(graph.reference)
        transfers.meters.fetched_bytes += len(node.raw)

    graph.found[digest] = node
    return node


async def _manifest(graph: _Graph, transfers: Transfers, digest: Digest, expected: Descriptor) -> Node:
    node = graph.found.get(digest)
    if node is None and (content := await transfers.target.read_manifest(digest)) is not None:
        is_known = expected.is_manifest
        node = manifest.parse_stored(content, digest) if is_known else manifest.parse_child(content, "", expected)

    if node is not None:
        # Another index may have told the truth about it; this one has to as well.
        check_expected(node.descriptor, expected, graph.reference.repository)
    else:
        node = await transfers.source.manifest(graph.reference.repository, digest, expected=expected)
        transfers.meters.fetched_bytes += len(node.raw)

    graph.found[digest] = node
    return node


async def _descend(graph: _Graph, transfers: Transfers, node: Node, *, depth: int) -> None:
    """Find the children of an index, all at once, and theirs."""
    if not isinstance(node, Index):
        return

    children = _wanted_children(node, transfers, graph.reference) if depth == 1 else node.manifests
    graph.children += len(children)
    if depth >= manifest.MAX_DEPTH or graph.children > manifest.MAX_CHILDREN:
        raise UnsupportedContent(f"{graph.reference}: an index of indexes too deep or too wide to be real")

    # Whole descriptors, not digests: what one says rightly another can say wrongly.
    distinct = {(child.digest, child.media_type, child.size): child for child in children}.values()
    graph.manifest_bytes += sum(child.size for child in distinct if not _is_large(child))
    if graph.manifest_bytes > manifest.MAX_IMAGE_MANIFEST_BYTES:
        raise UnsupportedContent(
            f"{graph.reference}: its manifests have {graph.manifest_bytes:,} bytes in all; "
            f"the limit is {manifest.MAX_IMAGE_MANIFEST_BYTES:,}"
        )

    async def child(descriptor: Descriptor) -> None:
        try:
            if _is_large(descriptor):
                raise NotFound(f"{descriptor.digest} is too large for a manifest")

            found = await _manifest(graph, transfers, descriptor.digest, descriptor)
        except NotFound:
            if descriptor.is_manifest:
                raise

            graph.blobs[descriptor.digest] = descriptor
            return

        await _descend(graph, transfers, found, depth=depth + 1)

    await run_all(partial(child, descriptor) for descriptor in distinct)


def _is_large(child: Descriptor) -> bool:
    """Return whether a child of a type that is not known is no manifest, by its size."""
    return not child.is_manifest and child.size > manifest.MAX_MANIFEST_BYTES


def _wanted_children(index: Index, transfers: Transfers, reference: Reference) -> tuple[Descriptor, ...]:
    return _chosen(index, transfers.platforms, reference) if transfers.platforms else index.manifests


def _chosen(index: Index, platforms: Sequence[Platform], reference: Reference) -> tuple[Descriptor, ...]:
    chosen = tuple(
        child
        for child in index.manifests
        if child.platform is not None and any(child.platform.matches(wanted) for wanted in platforms)
    )
    if not chosen:
        raise PlatformNotFound(f"{reference.name} is not there for {platforms_key(platforms)}")

    return chosen


def _children_first(root: Node, found: Mapping[Digest, Node]) -> list[Node]:
    """Return `root` and everything below it that was found, each once, no parent before its children."""
    ordered: dict[Digest, Node] = {}

    def visit(node: Node) -> None:
        for child in node.manifests if isinstance(node, Index) else ():
            if child.digest in found and child.digest not in ordered:
                visit(found[child.digest])

        ordered[node.descriptor.digest] = node

    visit(root)
    return list(ordered.values())


async def _fetch_blobs(
    blobs: Sequence[Descriptor],
    reference: Reference,
    transfers: Transfers,
    fetched: Fetched,
    waits: Callable[[], None] = lambda: None,
) -> None:
    """Make sure that `blobs` are at the target, whoever fetches them; call `waits` when all of them have begun."""
    to_begin = {blob.digest for blob in blobs}
    ours: set[Digest] = set()  # whose flights were begun for this image, now or in an earlier round

    def begins(blob: Descriptor) -> None:
        to_begin.discard(blob.digest)
        if not to_begin:
            waits()

    async def fly(blob: Descriptor) -> None:
        ours.add(blob.digest)
        # It may have landed for another image between our look and our turn.
        if not transfers.target.has_content(reference, blob) and await _fetch(
            blob, reference, transfers, partial(begins, blob)
        ):
            fetched.bytes += blob.size

        begins(blob)

    def is_fatal(blob: Descriptor, failure: Failure) -> bool:
        # If the repository it was to come from for others does not have it any more, ours may.
        return blob.digest in ours or not failure.is_a(NotFound, AccessDenied)

    # Largest first: the last transfer to end should not be the longest one, begun last.
    ordered = sorted(blobs, key=lambda blob: -blob.size)
    left = {transfers.target.dedup_key(reference, blob): blob for blob in ordered}
    if not left:
        waits()

    while left:
        ended = await transfers.flights.run_all({key: partial(fly, blob) for key, blob in left.items()})
        failed = [(left[key], failure) for key, failure in ended.items() if failure is not None]
        if failures := [failure for blob, failure in failed if is_fatal(blob, failure)]:
            raise most_severe(failures).error()

        # What others fetched may have had another size, by what their manifest says.
        theirs = {key: blob for key, blob in left.items() if blob.digest not in ours}
        left = {key: blob for key, blob in theirs.items() if not transfers.target.has_content(reference, blob)}


def _is_coming(blob: Descriptor, reference: Reference, transfers: Transfers) -> bool:
    return transfers.flights.is_under_way(transfers.target.dedup_key(reference, blob))


async def _put_once(node: Node, reference: Reference, transfers: Transfers) -> None:
    target, descriptor = transfers.target, node.descriptor

    async def put() -> None:
        # Two repositories may hold the very same image.
        if not target.has_content(reference, descriptor):
            await target.put_manifest(reference, descriptor, node.raw)

    failure = await transfers.flights.run(target.dedup_key(reference, descriptor), put)
    if failure is not None:
        raise failure.error()


async def _fetch(blob: Descriptor, reference: Reference, transfers: Transfers, begins: Callable[[], None]) -> bool:
    """Bring `blob` to the target; tell whether its bytes had to be fetched for that."""
    target = transfers.target
    async with target.sink(reference, blob) as sink:
        if sink is None:
            return False

        # Inside of the sink's own turn: the other way round, two images that need the same blob could block each other.
        async with transfers.pool.exclusive(blob.digest):
            if await transfers.pool.copy(blob, sink, borrower=target):
                return False

            await fetch_blob(
                blob,
                repository=reference.repository,
                source=transfers.source,
                sink=sink,
                slots=transfers.slots,
                meters=transfers.meters,
                label=reference.name,
                begins=begins,
            )

    transfers.observer(BlobFinished(blob.digest, blob.size))
    return True


@contextmanager
def _phase(phase: Phase) -> Iterator[None]:
    """Add `phase` to an error that doesn't have one."""
    try:
        yield
    except QuaymirrorError as error:
        if error.phase is not None:
            raise

        raise error.replace(phase=phase) from None
