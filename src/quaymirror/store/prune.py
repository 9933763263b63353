"""Deletion of images that are missing at the source, and of the content of snapshots: first names, then blobs that
nothing needs any more.

An interruption leaves too much, never too little. A name leaves the state before the index, which follows the state at
the next opening. A blob is deleted when nothing has needed it for some time: clients that read an older index may still
copy it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from ..documents.common import iso
from ..documents.removal import GoneJson, PruneJson
from ..errors import MirrorDamaged
from ..oci import Descriptor, Digest, mediatype
from ..values import dataclass
from .index import incomplete_roots, put_lists, update_index
from .promises import abandoned, expired, promised
from .reader import LayoutReader
from .records import AbsentImage, ReferrerRecord, Snapshot
from .referrer_tables import lists_of
from .retention import Retention, freed
from .snapshot_files import forget_checkout, is_rebuilt
from .snapshots import SnapshotNote, change, take_snapshot, visible_versions
from .state import State
from .storage import ObjectInfo, Storage, blob_key

# Longer than it takes to copy an image of an older index, shorter than from one night to the next.
READER_SECONDS = 12 * 3600.0
PRUNED = SnapshotNote("prune")
UNSELECTED = "the mirror, which no job selects,"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A blob that no image needs; `size` in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class DroppedSnapshot:
    """A snapshot whose content retention gives up, and the bytes that this frees, the other dropped ones included."""

    snapshot: Snapshot
    frees: int


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """The images, the contents of snapshots, and the blobs to delete.

    `untag` are the images to delete; `waiting` those that have not been missing for long enough, or are uncertain.
    `remove` are the blobs to delete now, `later` those that have been orphans for too short a time.
    `partials` are interrupted transfers that are not continued.
    """

    untag: tuple[AbsentImage, ...]
    waiting: tuple[AbsentImage, ...]
    remove: tuple[Orphan, ...]
    later: tuple[Orphan, ...]
    partials: tuple[ObjectInfo, ...]
    drop: tuple[DroppedSnapshot, ...] = ()
    kept: int = 0
    """The number of snapshots whose content stays."""
    promised_bytes: int = 0
    """The size of the blobs in `later` that an import needs."""
    referrers: tuple[ReferrerRecord, ...] = ()
    """Referrers of images, such as signatures, that have been missing at the source for long enough."""

    @property
    def is_empty(self) -> bool:
        """True if nothing would change."""
        return not (self.untag or self.drop or self.remove or self.partials or self.referrers)

    @property
    def freed_bytes(self) -> int:
        """The space that is freed now."""
        return sum(orphan.size for orphan in self.remove) + sum(partial.size for partial in self.partials)

    def excess(self, max_delete: float) -> str | None:
        """Return a message if more than `max_delete` percent of a selection's images would be deleted, else None."""
        counts = Counter(image.scope for image in self.untag)
        for image in self.untag:
            count, covered = counts[image.scope], max(image.covered, counts[image.scope])
            if count * 100 > max_delete * covered:
                return (
                    f"{count:,} of {covered:,} images of {image.scope} would be deleted, more than {max_delete:g} %: "
                    "nothing is pruned; if this is right, use --ignore-max-delete"
                )

        return None

    def to_json(self) -> PruneJson:
        """Return the plan as JSON values."""
        return {
            "untag": [_absent_json(image) for image in self.untag],
            "waiting": [{**_absent_json(image), "doubt": image.uncertain_because or None} for image in self.waiting],
            "remove": [{"digest": str(orphan.digest), "size": orphan.size} for orphan in self.remove],
            "later": {"blobs": len(self.later), "bytes": sum(orphan.size for orphan in self.later)},
            "partials": {"files": len(self.partials), "bytes": sum(partial.size for partial in self.partials)},
            "freed_bytes": self.freed_bytes,
            "snapshots": {
                "kept": self.kept,
                "drop": [
                    {"id": each.snapshot.id, "created": iso(each.snapshot.created), "freed_bytes": each.frees}
                    for each in self.drop
                ],
            },
            "kept_for_imports_bytes": self.promised_bytes,
            "referrers": [{"subject": str(each.subject), "digest": str(each.root.digest)} for each in self.referrers],
        }


def _absent_json(image: AbsentImage) -> GoneJson:
    return {"name": image.name, "digest": str(image.root), "gone_since": image.since}


@dataclass(slots=True)
class PruneProgress:
    """The progress of a prune, for sampling: the current step, and how much of it is done. 0 in all: not known yet."""

    step: str = ""
    done: int = 0
    total: int = 0

    def begin(self, step: str, total: int) -> None:
        """Begin a step."""
        self.step, self.done, self.total = step, 0, total


def make_plan(
    storage: Storage,
    state: State,
    *,
    grace: float,
    retention: Retention,
    unselected: Callable[[Iterable[str]], Collection[str]] | None = None,
    note: SnapshotNote = PRUNED,
    progress: PruneProgress | None = None,
) -> PrunePlan:
    """Return the plan to delete images that have been missing at the source for `grace` seconds. It blocks.

    A complete discovery must have missed them, and another one that much later. The images that `unselected` returns,
    of all names, are deleted at once. Held images stay. Snapshots that `retention` does not keep lose their content; if
    images change, the new snapshot counts (see `carry_out`). If `grace` is shorter than `READER_SECONDS`, it also
    limits how long blobs must have been orphans.

    :raises MirrorDamaged: if a manifest can't be read, so that the blobs it needs are unknown.
    :raises StoreError: if the disk fails.
    """
    now, absent = time.time(), _absent(state)
    unwanted = _unselected(state, unselected, now) if unselected is not None else []
    names = {image.name for image in unwanted}
    absent = [*(image for image in absent if image.name not in names), *unwanted]
    untag = tuple(i for i in absent if not i.uncertain_because and (i.name in names or i.seen - i.since >= grace))
    kept_for_imports = promised(storage)
    kept = _leased(storage) | kept_for_imports
    names = {image.name for image in untag}
    drop = _dropped(state, names, retention, note)
    needed = _needed(storage, state, names, drop, progress or PruneProgress())
    delay = min(grace, READER_SECONDS)
    noticed = state.orphans()
    remove: list[Orphan] = []
    later: list[Orphan] = []
    for info, digest in LayoutReader(storage).list_blobs(besides=needed):
        if digest is not None:
            is_due = max(info.modified, noticed.get(digest, now)) <= now - delay and digest not in kept
            (remove if is_due else later).append(Orphan(digest, info.size))

    if not is_rebuilt(storage, state):
        # Snapshots that only their files know may need them.
        remove, later = [], [*remove, *later]

    return PrunePlan(
        untag=untag,
        waiting=tuple(image for image in absent if image not in untag),
        remove=tuple(remove),
        later=tuple(later),
        partials=tuple(abandoned(storage, older_than=delay)),
        drop=_with_sizes(state, drop),
        kept=sum(each.dropped is None for each in state.snapshots()) - len(drop),
        referrers=tuple(state.missing_referrers(grace)),
        promised_bytes=sum(orphan.size for orphan in later if orphan.digest in kept_for_imports),
    )


def carry_out(
    storage: Storage,
    state: State,
    plan: PrunePlan,
    note: SnapshotNote = PRUNED,
    progress: PruneProgress | None = None,
) -> None:
    """Carry out `plan`. The lock must have been held since it was made, without readers. It blocks.

    If images are deleted, or have changed since the latest snapshot, a snapshot is made that `note` describes.

    :raises StoreError: if the disk fails; the next plan includes the rest.
    """
    names, now = {image.name for image in plan.untag}, time.time()
    visible = visible_versions(state, note)
    if names:
        state.untag(names)

    if plan.referrers:
        state.delete_referrers(plan.referrers)
        # Earlier snapshots need their lists, too.
        put_lists(storage, lists_of(state.all_referrers()))

    remaining = {name: version for name, version in visible.items() if name not in names}
    take_snapshot(storage, state, note, versions=remaining)
    update_index(storage, state, incomplete=incomplete_roots(storage, state))
    change(storage, state, *(replace(each.snapshot, dropped=now) for each in plan.drop))
    for each in plan.drop:
        forget_checkout(storage, each.snapshot)

    orphans = [orphan.digest for orphan in (*plan.remove, *plan.later)]
    if names or plan.drop or plan.referrers or set(orphans) != state.orphans().keys():
        state.forget_unneeded(orphans, now)

    progress = progress or PruneProgress()
    keys = [
        *(blob_key(orphan.digest) for orphan in plan.remove),
        *(partial.key for partial in plan.partials),
        *expired(storage),
    ]
    progress.begin("deleting files", len(keys))
    for key in keys:
        storage.delete(key)
        progress.done += 1


def _leased(storage: Storage) -> set[Digest]:
    """Return the blobs that other processes still read; what can't be read any more is not needed by them, either."""
    reader = LayoutReader(storage)
    # The media type of a leased image is not known: it is that of any manifest.
    roots = (Descriptor(mediatype.OCI_INDEX, digest, 0) for digest in storage.leased())
    return {node.digest for root in roots for node in reader.walk(root, lambda *_: None)}


def _absent(state: State) -> list[AbsentImage]:
    return _without_held(state, state.absent_images())


def _unselected(state: State, choose: Callable[[Iterable[str]], Collection[str]], now: float) -> list[AbsentImage]:
    """Return the recorded images that `choose` returns, as those that went away just now."""
    images = {record.name: record for record in state.images()}
    sizes = state.sizes()
    found = [
        AbsentImage(name, images[name].root.digest, sizes.get(name, 0), UNSELECTED, now, now, len(images))
        for name in choose(images)
    ]
    return _without_held(state, found)


def _without_held(state: State, images: Iterable[AbsentImage]) -> list[AbsentImage]:
    held = {hold.name for hold in state.holds()}
    return [replace(each, uncertain_because="held") if each.name in held else each for each in images]


def _dropped(state: State, names: Collection[str], retention: Retention, note: SnapshotNote) -> list[Snapshot]:
    """Return the snapshots that lose their content; a change of images makes a new one."""
    kept = [each for each in state.snapshots() if each.dropped is None]
    if not kept or state.is_set_back(time.time()):
        return []

    is_changed = names or visible_versions(state, note) != state.member_versions(kept[-1].number)
    new = [replace(kept[-1], number=kept[-1].number + 1, created=time.time(), label="")] if is_changed else []
    wanted = retention.kept([*kept, *new])
    return [each for each in kept if each.number not in wanted and each.number != state.published()]


def _with_sizes(state: State, drop: Sequence[Snapshot]) -> tuple[DroppedSnapshot, ...]:
    if not drop:
        return ()

    kept = [each.number for each in state.snapshots() if each.dropped is None]
    sizes = freed(state.spans(), [*kept, kept[-1] + 1], {each.number for each in drop})
    return tuple(DroppedSnapshot(each, sizes[each.number]) for each in drop)


def _needed(
    storage: Storage,
    state: State,
    without: Collection[str],
    without_snapshots: Sequence[Snapshot],
    progress: PruneProgress,
) -> set[Digest]:
    """Return the blobs that images except those in `without` need, by the index or the state: either may know more.

    An unreadable manifest may need any blob: that fails, unless the state knows what it needs.
    """
    numbers = [each.number for each in without_snapshots]
    known, reader = state.needed(without=without, without_snapshots=numbers), LayoutReader(storage)
    needed = set(known)

    def unreadable(node: Descriptor, _: str | None) -> None:
        if node.digest not in known:
            raise MirrorDamaged(f"{node.digest} in {storage} is missing or damaged: use verify --repair first")

    # Referrers are needed as long as their images, which the state knows, and so are the lists of them.
    referrers = state.all_referrers()
    lists = lists_of(referrers)
    needed.update(each.descriptor.digest for each in lists if each.subject in known)
    attached = {f"{each.repository}:{each.tag}" for each in referrers if each.tag} | {each.tag for each in lists}
    entries = list(reader.index_entries())
    progress.begin("reading manifests", len(entries))
    for name, root in entries:
        progress.done += 1
        if name not in without and name not in attached:
            needed.update(node.digest for node in reader.walk(root, unreadable))

    return needed
