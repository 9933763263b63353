"""The state, made anew from the index and the blobs: what it says of an image is what was just read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ..oci import Descriptor, Digest, Index, manifest
from ..oci.manifest import MAX_MANIFEST_BYTES
from . import graph
from .blobs import BlobStore
from .index import CONTAINERD_NAME
from .records import ImageRecord
from .state import State

_GROUP = 100


@dataclass(slots=True)
class Rebuilt:
    """What became of the entries of the index: images that the state knew, that were recorded, that are not whole, and
    entries of other tools, which are left alone."""

    known: int = 0
    recorded: int = 0
    broken: tuple[str, ...] = ()
    foreign: int = 0


def rebuild(root: Path, state: State) -> Rebuilt:
    """Record every image of the index that is ours, whole, and not in the state. It reads all of these, and blocks.

    :raises MirrorDamaged: when there is no readable index.
    :raises StoreError: when the disk fails.
    """
    result, blobs, right = Rebuilt(), BlobStore(root), set[Digest]()
    records: list[ImageRecord] = []
    for name, entry in graph.entries(root):
        registry = _registry(name, entry)
        present = state.image(name)
        if registry is None:
            result.foreign += 1
        elif present is not None and present.root.digest == entry.digest:
            result.known += 1
        elif (record := _record(name, registry, entry, blobs, right)) is None:
            result.broken += (name,)
        else:
            records.append(record)
            result.recorded += 1

    for start in range(0, len(records), _GROUP):
        state.commit(records[start : start + _GROUP])

    return result


def _registry(name: str, entry: Descriptor) -> str | None:
    """The host that an image came from, None if the entry is not one of ours."""
    registry, slash, rest = entry.annotations.get(CONTAINERD_NAME, "").partition("/")
    return registry if slash and rest == name and ":" in name else None


def _record(name: str, registry: str, entry: Descriptor, blobs: BlobStore, right: set[Digest]) -> ImageRecord | None:
    """What the state has to know of an image, None if it is not whole. What is `right` is not read again."""
    unreadable: list[Descriptor] = []
    contents = tuple({n.digest: n for n in graph.below(blobs, entry, lambda n, _: unreadable.append(n))}.values())
    if unreadable or not all(node.digest in right or blobs.adopt(node) for node in contents):
        return None

    right.update(node.digest for node in contents)
    return ImageRecord(
        name=name,
        registry=registry,
        source=entry.digest,
        root=Descriptor(entry.media_type, entry.digest, entry.size),
        contents=contents,
        platforms=_platforms(entry, blobs),
        mirrored=time.time(),
    )


def _platforms(entry: Descriptor, blobs: BlobStore) -> str:
    """The platforms that must have been asked for, as the state spells them; '' where all of them are here."""
    content = blobs.read(entry.digest, MAX_MANIFEST_BYTES) if graph.is_manifest(entry) else None
    root = manifest.parse_stored(content, entry.digest) if content is not None else None
    if not isinstance(root, Index):
        return ""

    here = [child for child in root.manifests if blobs.has(child)]
    if len(here) == len(root.manifests):
        return ""

    return ",".join(sorted({str(child.platform) for child in here if child.platform is not None}))
