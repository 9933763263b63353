"""Proof that a layout holds what its index says: everything is read again, and nothing is believed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ..errors import MirrorDamaged, StoreError
from ..oci import Descriptor, Digest
from . import fsops, graph
from .blobs import BlobStore
from .lock import reading


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is `missing` or `damaged`, and the `images` (by name) that are not whole because of it."""

    kind: str
    digest: Digest
    images: tuple[str, ...]
    node: Descriptor | None = None
    """What the blob should be, where that takes more than its digest to say."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. `blobs` counts manifests, too, each once; `bytes` are what they have.

    `orphans` are files under `blobs/` that no image needs, `partials` what broke off: how many, and their bytes. `fast`
    says that only sizes were looked at, but for manifests.
    """

    images: int
    blobs: int
    bytes: int
    damages: tuple[Damage, ...]
    orphans: tuple[int, int] = (0, 0)
    partials: tuple[int, int] = (0, 0)
    fast: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "images": self.images,
            "blobs": self.blobs,
            "bytes": self.bytes,
            "fast": self.fast,
            "damages": [
                {"kind": damage.kind, "digest": str(damage.digest), "images": list(damage.images)}
                for damage in self.damages
            ],
            "orphans": {"files": self.orphans[0], "bytes": self.orphans[1]},
            "partials": {"files": self.partials[0], "bytes": self.partials[1]},
        }


@dataclass(slots=True)
class Progress:
    """How far a verification is: for whoever samples it. The totals are 0 until they are known."""

    blobs: int = 0
    bytes: int = 0
    total_blobs: int = 0
    total_bytes: int = 0


async def verify_layout(root: Path, *, fast: bool = False, progress: Progress | None = None) -> Verification:
    """Hash everything that the index of the layout at `root` leads to; if `fast`, only manifests.

    A run may add to the layout meanwhile: what its index says now is what is verified. A child of an index that is not
    there is no damage if others are: it is one for some platforms only.

    :raises MirrorDamaged: when there is no readable index.
    :raises LockHeld: when blobs are being removed.
    :raises StoreError: when the disk fails.
    """
    with reading(root / ".quaymirror"):
        return await _verify(root, fast, progress or Progress())


async def _verify(root: Path, fast: bool, progress: Progress) -> Verification:
    blobs = BlobStore(root)
    entries = await anyio.to_thread.run_sync(graph.entries, root)
    needed: defaultdict[Digest, set[str]] = defaultdict(set)
    nodes: dict[Digest, Descriptor] = {}
    broken: dict[Digest, str] = {}
    for name, descriptor in entries:
        for node in await anyio.to_thread.run_sync(_below, blobs, descriptor, broken):
            nodes[node.digest] = node
            needed[node.digest].add(name)

    progress.blobs = progress.bytes = 0
    progress.total_blobs, progress.total_bytes = len(nodes), sum(node.size for node in nodes.values())
    await _check_all(blobs, nodes, broken, fast, progress)
    damages = [
        Damage(kind, digest, tuple(sorted(needed[digest])), nodes[digest]) for digest, kind in sorted(broken.items())
    ]
    return Verification(
        images=len(entries),
        blobs=len(nodes),
        bytes=progress.total_bytes,
        damages=tuple(damages),
        orphans=await anyio.to_thread.run_sync(_orphans, root, nodes.keys()),
        partials=_total(size for _, size in await anyio.to_thread.run_sync(blobs.partials)),
        fast=fast,
    )


async def _check_all(
    blobs: BlobStore, nodes: dict[Digest, Descriptor], broken: dict[Digest, str], fast: bool, progress: Progress
) -> None:
    """A task for each thread, and not for each of a hundred thousand blobs. Hashing lets go of the interpreter."""
    waiting = iter(list(nodes.values()))

    async def check() -> None:
        for node in waiting:
            wrong = await anyio.to_thread.run_sync(_check, blobs, node, fast)
            if wrong is not None:
                broken[node.digest] = wrong

            progress.blobs += 1
            progress.bytes += node.size

    async with anyio.create_task_group() as tasks:
        for _ in range(os.cpu_count() or 2):
            tasks.start_soon(check)


def _below(blobs: BlobStore, root: Descriptor, broken: dict[Digest, str]) -> list[Descriptor]:
    def unreadable(node: Descriptor, wrong: str | None) -> None:
        if wrong is not None:  # else it is told as missing or damaged when it is checked
            broken[node.digest] = "damaged"

    return list(graph.below(blobs, root, unreadable))


def _check(blobs: BlobStore, node: Descriptor, fast: bool) -> str | None:
    """What is wrong with a blob, None if nothing is."""
    try:
        if not os.path.lexists(blobs.path(node.digest)):
            return "missing"

        is_right = blobs.has(node) if fast and not graph.is_manifest(node) else blobs.verify(node)
        return None if is_right else "damaged"
    except (StoreError, MirrorDamaged):
        return "damaged"


def _orphans(root: Path, needed: Collection[Digest]) -> tuple[int, int]:
    def sizes() -> Iterator[int]:
        for path, digest in graph.stored(root):
            if digest not in needed:
                # What a run found damaged it may just have removed.
                with fsops.local_errors("look at", path), suppress(FileNotFoundError):
                    yield path.lstat().st_size

    return _total(sizes())


def _total(sizes: Iterator[int]) -> tuple[int, int]:
    all_sizes = list(sizes)
    return len(all_sizes), sum(all_sizes)
