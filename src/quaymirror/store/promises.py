"""Promises: blobs that pruning keeps for an import, at most for 30 days.

An inventory promises the blobs that it names, until an import answers it; an import that waits for parts promises those
that it needs, as far as they are here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from ..errors import InvalidName
from ..oci import Digest
from .storage import ObjectInfo, Storage

PROMISE_SECONDS = 30 * 86_400.0
_PREFIX = ".quaymirror/promises"


def promise(storage: Storage, identifier: str, digests: Iterable[Digest]) -> None:
    """Keep the blobs with `digests` from being pruned, in the name of the inventory or import `identifier`.

    :raises StoreError: if nothing can be written.
    """
    storage.replace(_key(identifier), "".join(f"{digest}\n" for digest in sorted(digests)).encode())


def forget(storage: Storage, identifier: str) -> None:
    """End the promise of `identifier`, if it is still kept.

    :raises StoreError: if it can't be removed.
    """
    storage.delete(_key(identifier))


def promised(storage: Storage) -> set[Digest]:
    """Return the blobs that must not be pruned. It blocks.

    :raises StoreError: if the storage fails.
    """
    oldest, found = time.time() - PROMISE_SECONDS, set[Digest]()
    for info in storage.list_objects(_PREFIX):
        if info.modified >= oldest:
            for line in (storage.read(info.key) or b"").decode(errors="replace").splitlines():
                with suppress(InvalidName):
                    found.add(Digest.parse(line))

    return found


def expired(storage: Storage) -> list[str]:
    """Return the keys of promises that are too old."""
    oldest = time.time() - PROMISE_SECONDS
    return [info.key for info in storage.list_objects(_PREFIX) if info.modified < oldest]


def abandoned(storage: Storage, *, older_than: float) -> list[ObjectInfo]:
    """Return the interrupted transfers of no promised blob that were not continued for `older_than` seconds.

    :raises StoreError: if the storage fails.
    """
    partials = storage.partials(older_than=older_than)
    kept = {f"{digest.algorithm}-{digest.encoded}" for digest in promised(storage)} if partials else ()
    return [partial for partial in partials if partial.key.rpartition("/")[2].partition(".")[0] not in kept]


def _key(identifier: str) -> str:
    # Listings have two levels, as those of blobs.
    return f"{_PREFIX}/{identifier[:2]}/{identifier}"
