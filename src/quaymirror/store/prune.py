"""Taking out of a mirror what its source does not have any more: first names, then what no name needs.

Everything in here leaves too much when it is interrupted, never too little. A name goes from the index before the
state forgets it, so that a crash between the two brings it back. A blob goes when nothing has needed it for a while:
whoever read an older index may still be on the way to it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MirrorDamaged
from ..events import ignore
from ..oci import Descriptor, Digest
from . import fsops, graph, index
from .blobs import BlobStore
from .layout import read_index
from .records import AbsentImage
from .state import State

# Longer than anybody needs to copy an image that was named when they began; shorter than from one night to the next.
READER_SECONDS = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A blob that nothing needs; `size` in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What pruning would do.

    `untag` are the images to forget; `waiting` those that have not been gone for long enough, or are in doubt.
    `remove` are the blobs to remove now, `later` those that nothing needs either, but for too short a time.
    `partials` are what broke off and nobody continued, with sizes in bytes.
    """

    untag: tuple[AbsentImage, ...]
    waiting: tuple[AbsentImage, ...]
    remove: tuple[Orphan, ...]
    later: tuple[Orphan, ...]
    partials: tuple[tuple[Path, int], ...]

    @property
    def freed_bytes(self) -> int:
        """How much room it makes at once."""
        return sum(orphan.size for orphan in self.remove) + sum(size for _, size in self.partials)

    def excess(self, max_delete: float) -> str | None:
        """Return what there is to say if it takes more than `max_delete` percent of a selection's images, else None."""
        counts = Counter(gone.scope for gone in self.untag)
        for gone in self.untag:
            count, covered = counts[gone.scope], max(gone.covered, counts[gone.scope])
            if count * 100 > max_delete * covered:
                return (
                    f"{count:,} of the {covered:,} images of {gone.scope} would go, more than {max_delete:g} %: "
                    "nothing is pruned; if that is right, say --yes"
                )

        return None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "untag": [{"name": gone.name, "digest": str(gone.root), "gone_since": gone.since} for gone in self.untag],
            "waiting": [
                {
                    "name": gone.name,
                    "digest": str(gone.root),
                    "gone_since": gone.since,
                    "doubt": gone.uncertain_because or None,
                }
                for gone in self.waiting
            ],
            "remove": [{"digest": str(orphan.digest), "size": orphan.size} for orphan in self.remove],
            "later": {"blobs": len(self.later), "bytes": sum(orphan.size for orphan in self.later)},
            "partials": {"files": len(self.partials), "bytes": sum(size for _, size in self.partials)},
            "freed_bytes": self.freed_bytes,
        }


def make_plan(root: Path, state: State, *, grace: float, now: float | None = None) -> Plan:
    """Find out what is to be pruned of the layout at `root`: images that are gone for `grace` seconds. It blocks.

    They have to have been gone in a complete discovery, and in another one that long after it. With a `grace` shorter
    than it takes to copy an image, blobs have to have been orphans for no longer than that, too.

    :raises MirrorDamaged: when a manifest can't be read, so that nobody knows what it needs.
    :raises StoreError: when the disk fails.
    """
    now = time.time() if now is None else now
    gone = state.absent_images()
    untag = tuple(image for image in gone if not image.uncertain_because and image.seen - image.since >= grace)
    orphans = _orphans(root, state, {image.name for image in untag})
    before = now - min(grace, READER_SECONDS)
    noticed = state.orphans()
    due = {o.digest for o, modified in orphans if modified <= before and noticed.get(o.digest, now) <= before}
    return Plan(
        untag=untag,
        waiting=tuple(image for image in gone if image not in untag),
        remove=tuple(orphan for orphan, _ in orphans if orphan.digest in due),
        later=tuple(orphan for orphan, _ in orphans if orphan.digest not in due),
        partials=tuple(BlobStore(root).partials(older_than=min(grace, READER_SECONDS))),
    )


def carry_out(root: Path, state: State, plan: Plan, *, now: float | None = None) -> None:
    """Do what `plan` says, which was made since the lock was taken and while nobody reads. It blocks.

    :raises StoreError: when the disk fails; what was not done yet, the next plan has again.
    """
    names = {gone.name for gone in plan.untag}
    if names:
        path = root / "index.json"
        _, document = read_index(path, ignore)
        fsops.replace_file(path, index.project(document, state.images(), without=names))

    orphans = [orphan.digest for orphan in (*plan.remove, *plan.later)]
    if names or set(orphans) != state.orphans().keys():
        state.untag(names, orphans, time.time() if now is None else now)

    blobs = BlobStore(root)
    for orphan in plan.remove:
        blobs.remove(orphan.digest)

    for partial, _ in plan.partials:
        fsops.remove(partial)


def _orphans(root: Path, state: State, without: Collection[str]) -> list[tuple[Orphan, float]]:
    """Every blob that nothing needs but the images `without`, and when it was last modified."""
    needed = _needed(root, state, without)
    found = []
    for path, digest in graph.stored(root):
        if digest is not None and digest not in needed:
            with fsops.local_errors("look at", path):
                status = path.lstat()

            found.append((Orphan(digest, status.st_size), status.st_mtime))

    return found


def _needed(root: Path, state: State, without: Collection[str]) -> set[Digest]:
    """What the index on the disk leads to, whoever wrote it, and what the state says: one may know more than the other.

    What can't be read may need anything: there a plan ends, unless the state knows what it needs.
    """
    recorded, blobs = state.contents(without=without), BlobStore(root)
    known = frozenset(digest for contents in recorded.values() for digest in contents)
    needed = set(known)

    def unreadable(node: Descriptor, _: str | None) -> None:
        if node.digest not in known:
            raise MirrorDamaged(f"{node.digest} in {root} is missing or damaged: mend it with verify --repair first")

    for name, descriptor in graph.entries(root):
        if name not in without:
            needed.update(node.digest for node in graph.below(blobs, descriptor, unreadable))

    return needed
