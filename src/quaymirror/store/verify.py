"""Proof that a layout holds what its index says: everything is read again, and nothing is believed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ..errors import InvalidName, StoreError, TargetRefused, UnsupportedContent
from ..oci import Descriptor, Digest, Index, manifest
from ..oci.manifest import MAX_MANIFEST_BYTES
from . import fsops, index
from .blobs import BlobStore


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is `missing` or `damaged`, and the `images` (by name) that are not whole because of it."""

    kind: str
    digest: Digest
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. `blobs` counts manifests, too, each once; `bytes` were read."""

    images: int
    blobs: int
    bytes: int
    damages: tuple[Damage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "images": self.images,
            "blobs": self.blobs,
            "bytes": self.bytes,
            "damages": [
                {"kind": damage.kind, "digest": str(damage.digest), "images": list(damage.images)}
                for damage in self.damages
            ],
        }


async def verify_layout(root: Path) -> Verification:
    """Hash everything that the index of the layout at `root` leads to.

    A child of an index that is not there is no damage if others are: it is one for some platforms only.

    :raises TargetRefused: when there is no readable index.
    :raises StoreError: when the disk fails.
    """
    blobs = BlobStore(root)
    entries = await anyio.to_thread.run_sync(_entries, root)
    needed: defaultdict[Digest, set[str]] = defaultdict(set)
    nodes: dict[Digest, Descriptor] = {}
    broken: dict[Digest, str] = {}
    for name, descriptor in entries:
        for node in await anyio.to_thread.run_sync(_below, blobs, descriptor, broken):
            nodes[node.digest] = node
            needed[node.digest].add(name)

    limit = anyio.CapacityLimiter(os.cpu_count() or 2)

    async def check(node: Descriptor) -> None:
        wrong = await anyio.to_thread.run_sync(_check, blobs, node, limiter=limit)
        if wrong is not None:
            broken[node.digest] = wrong

    async with anyio.create_task_group() as tasks:
        for node in nodes.values():
            tasks.start_soon(check, node)

    damages = [Damage(kind, digest, tuple(sorted(needed[digest]))) for digest, kind in sorted(broken.items())]
    return Verification(len(entries), len(nodes), sum(node.size for node in nodes.values()), tuple(damages))


def _entries(root: Path) -> list[tuple[str, Descriptor]]:
    path = root / "index.json"
    with fsops.local_errors("read", path):
        text = path.read_bytes()

    try:
        document = index.parse_index(text)
        return [
            (index.name_of(entry) or str(entry.get("digest")), Descriptor.parse(entry, where="index.json"))
            for entry in document["manifests"]
        ]
    except (index.Unreadable, UnsupportedContent) as error:
        raise TargetRefused(f"{path}: {error}") from None


def _below(blobs: BlobStore, root: Descriptor, broken: dict[Digest, str]) -> list[Descriptor]:
    return list(_walk(blobs, root, broken))


def _walk(blobs: BlobStore, node: Descriptor, broken: dict[Digest, str]) -> Iterator[Descriptor]:
    """Iterate over `node` and everything below it, as far as it can be read."""
    yield node
    content = blobs.read(node.digest, MAX_MANIFEST_BYTES)
    if content is None:
        return  # told as missing or damaged when it is checked

    try:
        parsed = manifest.parse_stored(content, node.digest)
    except (UnsupportedContent, InvalidName):
        broken[node.digest] = "damaged"
        return

    if not isinstance(parsed, Index):
        yield from parsed.blobs
        return

    here = [child for child in parsed.manifests if blobs.path(child.digest).exists()]
    for child in here or parsed.manifests:
        yield from _walk(blobs, child, broken)


def _check(blobs: BlobStore, node: Descriptor) -> str | None:
    """What is wrong with a blob, None if nothing is."""
    try:
        if not blobs.path(node.digest).exists():
            return "missing"

        return None if blobs.verify(node) else "damaged"
    except StoreError:
        return "damaged"
