"""The verdicts of a signature policy about the images of a layout, from its own files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..errors import InvalidName, UnsupportedContent
from ..oci import Descriptor, Digest, Index, Manifest, Reference, Repository, mediatype
from ..oci.digest_tags import fallback_tag, is_digest_tag
from ..oci.manifest import Node
from ..store.documents import CONTAINERD_NAME
from ..store.lookaside import stored_messages
from ..store.reader import LayoutReader
from ..store.storage import Storage
from ..store.verify import Refusal
from ..trust.evidence import MAX_SIGNATURES, Evidence
from ..trust.judge import Judge, Verdict
from ..trust.names import parse_name
from ..trust.policy import docker_name
from .evidence import SIGNATURE_END, evidence_of, signature_layers
from .signatures import is_attestation


def judge_layout(storage: Storage, judge: Judge) -> tuple[int, tuple[Refusal, ...]]:
    """Return the number of images that the policy accepts, and those that it refuses. Blocks.

    The layout's index says which images there are, and which signatures; images without readable manifests are left to
    the check of content.

    :raises MirrorDamaged: if the index is missing or can't be parsed.
    :raises StoreError: if the disk fails.
    """
    layout = _SignedLayout(storage)
    accepted, refused = 0, list[Refusal]()
    for name, root in layout.images():
        verdict = layout.verdict(name, root, judge)
        if verdict is not None and verdict.accepted:
            accepted += 1
        elif verdict is not None:
            refused.append(Refusal(name, root.digest, verdict.reasons))

    return accepted, tuple(refused)


class _SignedLayout:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reader = LayoutReader(storage)
        self._entries = self._reader.index_entries()
        self._tags: dict[str, list[Descriptor]] = {}
        for name, entry in self._entries:
            tag = name.rpartition(":")[2]
            if is_digest_tag(tag):
                self._tags.setdefault(tag, []).append(entry)

    def images(self) -> Iterator[tuple[str, Descriptor]]:
        """Yield the images by name: neither signatures nor lists of them."""
        yield from ((name, entry) for name, entry in self._entries if not is_digest_tag(name.rpartition(":")[2]))

    def verdict(self, name: str, root: Descriptor, judge: Judge) -> Verdict | None:
        """Return the verdict about an image, None if its manifest can't be read."""
        node = self._node(root)
        if node is None:
            return None

        reference = _reference(root.annotations.get(CONTAINERD_NAME, name), root.digest)
        if reference is None:
            return Verdict(False, ("its name has no registry, so that no rule can be looked up",))

        children = node.manifests if isinstance(node, Index) else ()
        present = [
            self._evidence(child, str(entry.platform or entry.digest.short), reference)
            for entry in children
            if not is_attestation(entry) and (child := self._node(entry)) is not None
        ]
        return judge.judge(reference, self._evidence(node, "", reference), present)

    def _evidence(self, node: Node, name: str, reference: Reference) -> Evidence:
        contents = []
        for layer in [*self._layers(node.descriptor.digest)][:MAX_SIGNATURES]:
            content = self._reader.read(layer.digest, layer.size)
            if content is not None:
                contents.append((layer, content))

        messages = stored_messages(self._storage, docker_name(reference), node.descriptor.digest)
        return replace(evidence_of(node, name, contents), messages=messages)

    def _layers(self, subject: Digest) -> Iterator[Descriptor]:
        """Yield the signatures of a manifest: those of its digest tag, and those in its list of referrers."""
        tag = str(subject).replace(":", "-") + SIGNATURE_END
        for entry in self._tags.get(tag, ()):
            if isinstance(node := self._node(entry), Manifest):
                yield from signature_layers(node, tag)

        for entry in self._tags.get(fallback_tag(subject), ()):
            listed = self._node(entry)
            for each in listed.manifests if isinstance(listed, Index) else ():
                node = self._node(each)
                if isinstance(node, Manifest) and node.subject is not None and node.subject.digest == subject:
                    yield from signature_layers(node, "")

    def _node(self, entry: Descriptor) -> Manifest | Index | None:
        if entry.media_type not in mediatype.INDEXES | mediatype.MANIFESTS:
            return None

        try:
            return self._reader.manifest(entry)
        except (UnsupportedContent, InvalidName):
            return None


def _reference(name: str, digest: Digest) -> Reference | None:
    found = parse_name(name)
    if found is None:
        return None

    registry, _, repository = found.repository.partition("/")
    try:
        return Reference(Repository(registry, repository), found.tag or None, digest)
    except InvalidName:
        return None
