"""The graph of an image: its manifests, their blobs, and referrers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial

from ..errors import AccessDenied, NotFound, PlatformNotFound, QuaymirrorError, UnsupportedContent
from ..oci import Descriptor, Digest, Index, Manifest, Platform, Reference, manifest
from ..oci.manifest import Node
from ..progress.meters import Meters
from ..registry.pull import check_expected
from ..registry.puller import ManifestSource
from ..tasks import run_all
from ..values import dataclass

# The image that an attestation in an index is about, as buildkit writes it.
_ATTESTED = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class ImageGraph:
    """The content of one image.

    `nodes` are the manifests by digest. `referrers` are manifests whose subject is `root` or one below it, by the
    digest of the subject. `children` are children of an index that the registry has as blobs, `missing` the platforms
    that the source lacks of an index which it declares to be sparse.
    """

    root: Node
    nodes: Mapping[Digest, Node]
    children: Mapping[Digest, Descriptor] = field(default_factory=dict)
    referrers: Mapping[Digest, tuple[Node, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def is_sparse(self) -> bool:
        """True if the root is an index that has not all of its children here."""
        if not isinstance(self.root, Index):
            return False

        return any(
            child.digest not in self.nodes and child.digest not in self.children for child in self.root.manifests
        )

    def walk(self) -> tuple[Node, ...]:
        """Return all manifests, each once, in the order to store them: children, the parent, then its referrers.

        Blobs are stored before all of them.
        """
        ordered: dict[Digest, Node] = {}

        def visit(node: Node) -> None:
            if node.descriptor.digest in ordered:
                return

            for child in node.manifests if isinstance(node, Index) else ():
                if child.digest in self.nodes:
                    visit(self.nodes[child.digest])

            ordered[node.descriptor.digest] = node
            for referrer in self.referrers.get(node.descriptor.digest, ()):
                visit(referrer)

        visit(self.root)
        return tuple(ordered.values())

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return all blobs, each once."""
        nodes = (node for node in self.walk() if isinstance(node, Manifest))
        return tuple({**self.children, **{blob.digest: blob for node in nodes for blob in node.blobs}}.values())


def platforms_key(platforms: Iterable[Platform]) -> str:
    """Return the same text for the same choice of platforms, as the state records it."""
    return ",".join(sorted({str(platform) for platform in platforms}))


@dataclass(slots=True)
class GraphReader:
    """Reads the graph of one image; manifests that the target has come from there, by `read_stored`.

    Manifests that the source has lost come from `recover`; `recovered` is True if one did. `moved` is True if the tag
    points elsewhere by now, or nowhere. `missing` are the platforms that the source lacks, of an index that it declares
    to be sparse.
    """

    reference: Reference
    source: ManifestSource
    read_stored: Callable[[Digest], Awaitable[bytes | None]]
    platforms: Sequence[Platform]
    meters: Meters
    is_sparse: bool = False
    recover: Callable[[Digest], Awaitable[bytes | None]] | None = None
    moved: bool = False
    recovered: bool = False
    missing: list[str] = field(default_factory=list)
    known: Node | None = None
    """The root, if it was read before."""
    _found: dict[Digest, Node] = field(default_factory=dict)
    _blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    _children: int = 0
    _manifest_bytes: int = 0

    async def read(self) -> ImageGraph:
        """Return the graph of the image.

        :raises PlatformNotFound: if it is an index without any of the wanted platforms.
        :raises UnsupportedContent: if it can't be mirrored.
        :raises NotFound, AccessDenied: if a manifest is gone.
        :raises QuaymirrorError: if a manifest can't be fetched.
        """
        root = await self._root()
        if isinstance(root, Index) and self.platforms:
            chosen = self._chosen(root)
            if len(chosen) == 1:
                # As crane and skopeo do: one platform of an index is an image of its own, which any reader accepts.
                root = await self._node(chosen[0])

        await self._descend(root, depth=1)
        graph = ImageGraph(root, self._found, self._blobs, missing=tuple(sorted(self.missing)))
        count = len(graph.blobs())
        if count > manifest.MAX_IMAGE_BLOBS:
            raise UnsupportedContent(f"{self.reference}: {count:,} blobs; the limit is {manifest.MAX_IMAGE_BLOBS:,}")

        return graph

    async def _root(self) -> Node:
        digest = self.reference.digest
        assert digest is not None
        if self.known is not None:
            self._found[digest] = self.known
            return self.known

        content = await self.read_stored(digest)
        node: Node | None = None if content is None else manifest.parse_stored(content, digest)
        if node is None:
            try:
                node, self.moved = await self.source.root(self.reference)
            except (NotFound, AccessDenied) as error:
                node = manifest.parse_stored(await self._recover(digest, error), digest)
            else:
                self.meters.fetched_bytes += len(node.raw)

        self._found[digest] = node
        return node

    async def _recover(self, digest: Digest, error: QuaymirrorError) -> bytes:
        """Return a manifest that the source has lost.

        :raises QuaymirrorError: the `error` of the source, if the target lacks it as well.
        """
        content = None if self.recover is None else await self.recover(digest)
        if content is None:
            raise error

        self.recovered = True
        return content

    async def _node(self, expected: Descriptor) -> Node:
        digest, repository = expected.digest, self.reference.repository
        node = self._found.get(digest)
        if node is None and (content := await self.read_stored(digest)) is not None:
            is_known = expected.is_manifest
            node = manifest.parse_stored(content, digest) if is_known else manifest.parse_child(content, "", expected)

        if node is not None:
            # Its descriptor in another index may have been right; this one has to be right, too.
            check_expected(node.descriptor, expected, repository)
        else:
            node = await self._fetch(expected)

        self._found[digest] = node
        return node

    async def _fetch(self, expected: Descriptor) -> Node:
        try:
            node = await self.source.manifest(self.reference.repository, expected.digest, expected=expected)
        except (NotFound, AccessDenied) as error:
            if not expected.is_manifest:
                raise  # it can be a blob

            return manifest.parse_child(await self._recover(expected.digest, error), "", expected)

        self.meters.fetched_bytes += len(node.raw)
        return node

    async def _descend(self, node: Node, *, depth: int) -> None:
        """Read the children of an index, all at once, and theirs."""
        if not isinstance(node, Index):
            return

        children = self._kept(node) if depth == 1 and self.platforms else node.manifests
        self._children += len(children)
        if depth >= manifest.MAX_DEPTH or self._children > manifest.MAX_CHILDREN:
            raise UnsupportedContent(f"{self.reference}: an index of indexes too deep or too wide to be real")

        # By all of the descriptor: two descriptors of the same digest can contradict each other.
        distinct = {(child.digest, child.media_type, child.size): child for child in children}.values()
        self._manifest_bytes += sum(child.size for child in distinct if not _is_large(child))
        if self._manifest_bytes > manifest.MAX_IMAGE_MANIFEST_BYTES:
            raise UnsupportedContent(
                f"{self.reference}: its manifests have {self._manifest_bytes:,} bytes in all; "
                f"the limit is {manifest.MAX_IMAGE_MANIFEST_BYTES:,}"
            )

        await run_all(partial(self._read_child, child, depth + 1) for child in distinct)

    async def _read_child(self, child: Descriptor, depth: int) -> None:
        try:
            if _is_large(child):
                raise NotFound(f"{child.digest} is too large for a manifest")

            node = await self._node(child)
        except NotFound as error:
            if child.is_manifest:
                self._miss(child, error)
            else:
                self._blobs[child.digest] = child
        else:
            await self._descend(node, depth=depth)

    def _miss(self, child: Descriptor, error: NotFound) -> None:
        """Leave out a child of an index that its source declares to be sparse.

        :raises NotFound: if the source has not declared that.
        """
        name = str(child.platform or child.digest)
        if not self.is_sparse:
            message = f"{error.message}: the source lacks {name} of the index; --platform mirrors the others"
            raise error.replace(message)

        self.missing.append(name)

    def _kept(self, index: Index) -> tuple[Descriptor, ...]:
        """Return the chosen children, and the attestations about them, which have a platform of their own."""
        chosen = self._chosen(index)
        digests = {str(child.digest) for child in chosen}
        return (*chosen, *(child for child in index.manifests if child.annotations.get(_ATTESTED) in digests))

    def _chosen(self, index: Index) -> tuple[Descriptor, ...]:
        chosen = tuple(
            child
            for child in index.manifests
            if child.platform is not None and any(child.platform.matches(wanted) for wanted in self.platforms)
        )
        if not chosen:
            # Reasons are counted, so the name of the image is not in it.
            raise PlatformNotFound(f"not available for {platforms_key(self.platforms)}")

        return chosen


def _is_large(child: Descriptor) -> bool:
    """Return True if a child of an unknown type can't be a manifest, because of its size."""
    return not child.is_manifest and child.size > manifest.MAX_MANIFEST_BYTES
