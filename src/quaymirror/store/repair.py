"""Reconstruction of the state from the index and the blobs, all of which are read."""

from __future__ import annotations

import time

from ..oci import Descriptor, Digest, Index
from ..values import dataclass
from .documents import CONTAINERD_NAME
from .reader import LayoutReader
from .records import ImageRecord
from .state import State
from .storage import Storage

_GROUP = 100


@dataclass(slots=True)
class Rebuilt:
    """The entries of the index: images that the state knew, that were recorded, that are incomplete (`broken`), and
    entries of other tools, which are left alone."""

    known: int = 0
    recorded: int = 0
    broken: tuple[str, ...] = ()
    foreign: int = 0


def rebuild(storage: Storage, state: State) -> Rebuilt:
    """Record every complete image of the index that the state doesn't know. It blocks.

    :raises MirrorDamaged: if the index is missing or can't be parsed.
    :raises StoreError: if the disk fails.
    """
    result, verified, reader = Rebuilt(), set[Digest](), LayoutReader(storage)
    records: list[ImageRecord] = []
    for name, entry in reader.index_entries():
        registry = _registry(name, entry)
        present = state.image(name)
        if registry is None:
            result.foreign += 1
        elif present is not None and present.root.digest == entry.digest:
            result.known += 1
        elif (record := _record(name, registry, entry, reader, verified)) is None:
            result.broken += (name,)
        else:
            records.append(record)
            result.recorded += 1

    for start in range(0, len(records), _GROUP):
        state.commit(records[start : start + _GROUP])

    return result


def _registry(name: str, entry: Descriptor) -> str | None:
    """Return the host that an image came from, None for entries of other tools."""
    registry, slash, rest = entry.annotations.get(CONTAINERD_NAME, "").partition("/")
    return registry if slash and rest == name and ":" in name else None


def _record(
    name: str, registry: str, entry: Descriptor, reader: LayoutReader, verified: set[Digest]
) -> ImageRecord | None:
    """Return the record of an image, None if it is incomplete. Blobs in `verified` are not read again."""
    unreadable: list[Descriptor] = []
    nodes = {node.digest: node for node in reader.walk(entry, lambda node, _: unreadable.append(node))}
    if unreadable or not all(node.digest in verified or reader.adopt(node) for node in nodes.values()):
        return None

    verified.update(nodes)
    return ImageRecord(
        name=name,
        registry=registry,
        source=entry.digest,
        root=Descriptor(entry.media_type, entry.digest, entry.size),
        contents=tuple(nodes.values()),
        platforms=_platforms(entry, reader),
        mirrored=time.time(),
    )


def _platforms(entry: Descriptor, reader: LayoutReader) -> str:
    """Return the platforms that were requested, as the state spells them; '' if all of them are present."""
    root = reader.manifest(entry) if entry.is_manifest else None
    if not isinstance(root, Index):
        return ""

    present = [child for child in root.manifests if reader.has(child)]
    if len(present) == len(root.manifests):
        return ""

    return ",".join(sorted({str(child.platform) for child in present if child.platform is not None}))
