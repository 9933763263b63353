"""Everything that an image needs, read from its manifests, and the referrers among it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InvalidName, MirrorDamaged, StoreError, UnsupportedContent
from ..oci import Descriptor, Digest, Index, Manifest
from ..oci.manifest import MAX_DEPTH
from ..store.reader import LayoutReader


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of one image.

    `nodes` are its manifests and blobs, with the sizes and types that its manifests give them, whether they are stored
    or not; `manifests` are those that are asked for as manifests. `referrers` are the subjects and the descriptors of
    manifests with a subject. If a manifest can't be read now, the rest is not `complete`.
    """

    nodes: Mapping[Digest, Descriptor]
    manifests: frozenset[Digest]
    referrers: tuple[tuple[Digest, Mapping[str, Any]], ...]
    complete: bool


def read_contents(reader: LayoutReader, root: Descriptor) -> Contents:
    """Read the manifests below `root`. It blocks."""
    walk = _Walk(reader)
    walk.add(root, 0)
    return Contents(walk.nodes, frozenset(walk.manifests), tuple(walk.referrers), walk.complete)


@dataclass(slots=True)
class _Walk:
    reader: LayoutReader
    nodes: dict[Digest, Descriptor] = field(default_factory=dict)
    manifests: set[Digest] = field(default_factory=set)
    referrers: list[tuple[Digest, Mapping[str, Any]]] = field(default_factory=list)
    complete: bool = True

    def add(self, node: Descriptor, depth: int) -> None:
        if node.digest in self.manifests or depth > MAX_DEPTH:
            return

        self.manifests.add(node.digest)
        self.nodes[node.digest] = node
        if not node.is_manifest:
            return  # an index may list anything (image-spec, image-layout.md)

        parsed = self._parsed(node)
        if parsed is None:
            return

        self.nodes[node.digest] = replace(parsed.descriptor, platform=node.platform)
        if parsed.subject is not None:
            self.referrers.append((parsed.subject.digest, _referrer(parsed)))

        if isinstance(parsed, Index):
            for child in parsed.manifests:
                self.add(child, depth + 1)
        else:
            for blob in parsed.blobs:
                self.nodes.setdefault(blob.digest, blob)

    def _parsed(self, node: Descriptor) -> Manifest | Index | None:
        try:
            parsed = self.reader.manifest(node)
        except (UnsupportedContent, InvalidName):
            return None  # served as it is
        except (StoreError, MirrorDamaged):
            parsed = None

        self.complete &= parsed is not None
        return parsed


def _referrer(parsed: Manifest | Index) -> dict[str, Any]:
    """Return the descriptor of a referrer as the distribution-spec wants it ("Listing Referrers")."""
    document = json.loads(parsed.raw)
    node = parsed.descriptor
    entry: dict[str, Any] = {"mediaType": node.media_type, "digest": str(node.digest), "size": node.size}
    fallback = parsed.config.media_type if isinstance(parsed, Manifest) else None
    artifact_type = document.get("artifactType") or fallback
    if isinstance(artifact_type, str):
        entry["artifactType"] = artifact_type

    annotations = document.get("annotations")
    if isinstance(annotations, dict) and annotations:
        entry["annotations"] = {key: value for key, value in annotations.items() if isinstance(value, str)}

    return entry
