"""The index file of a layout, and its only writer."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from ..errors import MirrorDamaged
from ..events import Notice, Observer, ignore
from ..oci import Digest
from ..untrusted import InvalidDocument
from . import documents
from .records import ImageRecord, ReferrerList, ReferrerRecord
from .referrer_tables import lists_of
from .state import State
from .storage import BLOBS, INDEX, IndexMoved, Storage, blob_key

# Each failed attempt to replace an index is one in which another writer succeeded.
_ATTEMPTS = 200


def incomplete_roots(storage: Storage, state: State) -> frozenset[str]:
    """Return the roots of recorded images with missing content, as after a backup of the state was restored."""
    # Without values of their own: every run looks at all blobs of its mirror.
    sizes = state.blob_sizes()
    return state.roots_with(digest for digest, size in sizes.items() if not _has(storage, digest, size))


def _has(storage: Storage, digest: str, size: int) -> bool:
    try:
        info = storage.info(f"{BLOBS}/{digest.replace(':', '/', 1)}")
    except MirrorDamaged:
        return False

    return info is not None and info.size == size


def update_index(
    storage: Storage,
    state: State,
    *,
    incomplete: Collection[str] = (),
    observer: Observer = ignore,
    pins: Mapping[str, Digest] | None = None,
) -> frozenset[str]:
    """Write the images that readers shall see to `index.json`; entries of other tools stay.

    Images whose roots are `incomplete` are left out; their names are returned. With `pins`, the state is that of one
    shard: only the images with these names and digests at the source are written, and all other entries stay.

    A damaged index is set aside first. The file is not touched if nothing changes: programs that copy the mirror
    compare modification times.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _update(storage, state, incomplete, observer, pins)
        except IndexMoved:
            continue

    return _update(storage, state, incomplete, observer, pins)


def _update(
    storage: Storage,
    state: State,
    incomplete: Collection[str],
    observer: Observer,
    pins: Mapping[str, Digest] | None,
) -> frozenset[str]:
    text = storage.read(INDEX)
    document = None
    if text is not None:
        try:
            document = documents.parse_index(text)
        except InvalidDocument as error:
            aside = f"{INDEX}.damaged-{int(time.time())}"
            storage.put(aside, text)
            observer(Notice(f"{storage}/{INDEX} {error}: set aside as {aside}, written again from the state"))

    referrers = state.visible_referrers() if pins is None else []
    images = [*state.visible_images(), *tagged(referrers)]
    if pins is not None:
        images = pinned(images, pins)

    left_out = frozenset(image.name for image in images if incomplete and str(image.root.digest) in incomplete)
    records = [image for image in images if image.name not in left_out]
    lists = lists_of(each for each in referrers if str(each.root.digest) not in incomplete)
    put_lists(storage, lists)
    without = {*left_out} if pins is not None else {*state.former_names(), *left_out}
    content = documents.project(document, records, lists, without=without, shared=pins is not None)
    if content != text:
        storage.replace(INDEX, content)

    return left_out


def pinned(records: Iterable[ImageRecord], pins: Mapping[str, Digest]) -> list[ImageRecord]:
    """Return those of `records` that have the names and the digests at the source of `pins`."""
    return [record for record in records if pins.get(record.name) == record.source]


def put_lists(storage: Storage, lists: Iterable[ReferrerList]) -> None:
    """Store the lists of referrers that an index names."""
    for each in lists:
        storage.put(blob_key(each.descriptor.digest), each.content)


def index_at(storage: Storage, state: State, number: int) -> bytes:
    """Return the index of snapshot `number`: its images with their referrers, as far as their lists are stored."""
    referrers = state.referrers_at(number)
    lists = [each for each in lists_of(referrers) if storage.info(blob_key(each.descriptor.digest)) is not None]
    return documents.project(None, [*state.members(number), *tagged(referrers)], lists)


def tagged(referrers: Iterable[ReferrerRecord]) -> list[ImageRecord]:
    """Return the referrers that have digest tags, as the images that these tags name."""
    return [
        ImageRecord(f"{each.repository}:{each.tag}", each.registry, each.root.digest, each.root, ())
        for each in referrers
        if each.tag
    ]
