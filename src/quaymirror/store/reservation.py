"""Reservation of free space for the blobs that are being written: a run ends early instead of filling the disk.

Sizes are claims of manifests, so no claim takes space from others: an image that claims more than is free fails alone,
and a blob counts only once its bytes arrive, by which time the server has confirmed its size.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..errors import DoesNotFit, StoreError
from ..oci import Descriptor, Digest
from .storage import Space, Storage

# With less than this share of a file system free, and less than these bytes, it counts as full.
_FULL_SHARE = 20
_FULL_BYTES = 1024**3
# A blob reserves this much ahead, or as much as it has received: one that stays away must not fill the disk on paper.
_AHEAD_BYTES = 64 * 1024**2
_AHEAD_SHARE = 16


class SpaceReservation:
    """The blobs that are being written; safe for use by several threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._writing: dict[Digest, Descriptor] = {}
        self._lock = threading.Lock()

    def check(self, nodes: Sequence[Descriptor]) -> None:
        """Check that the missing `nodes` of one image can fit.

        :raises DoesNotFit: if they can't. On a full disk this is left to `admit`, which knows the true sizes.
        """
        space = self._storage.free_space()
        if space is None or sum(_allocated(node.size, space) for node in nodes) <= space.free:
            return

        # Parts that are stored already are only subtracted if it matters: that takes two system calls per blob.
        needed = sum(self._remaining(node, space) for node in nodes)
        if needed > space.free and (needed > space.total or not _is_full(space, space.free)):
            raise DoesNotFit(
                f"{needed:,} more bytes are needed, but only {space.free:,} are free on the disk of "
                f"{self._storage}: free some space, or use --no-space-check"
            )

    def admit(self, node: Descriptor) -> None:
        """Reserve space for a blob whose bytes have begun to arrive.

        :raises DoesNotFit: if it does not fit beside the others that are being written.
        :raises StoreError: if that is so because the disk is full.
        """
        space = self._storage.free_space()
        if space is None:
            return

        with self._lock:
            others = [other for digest, other in self._writing.items() if digest != node.digest]
            self._writing[node.digest] = node

        free = space.free
        if sum(_allocated(each.size, space) for each in (node, *others)) <= free:
            return

        free -= sum(self._expected(other, space) for other in others)
        needed = self._remaining(node, space)
        if needed > free:
            kind = StoreError if _is_full(space, free) and needed <= space.total else DoesNotFit
            raise kind(
                f"{self._storage} needs {needed:,} more bytes for the images in progress, but only {max(0, free):,} "
                "are free: free some space, or use --no-space-check"
            )

    def release(self, digest: Digest) -> None:
        """End the reservation of a blob whose transfer ended, whether or not it succeeded."""
        with self._lock:
            self._writing.pop(digest, None)

    def _remaining(self, node: Descriptor, space: Space) -> int:
        return _allocated(max(0, node.size - self._storage.stored_bytes(node)), space)

    def _expected(self, node: Descriptor, space: Space) -> int:
        """Return the bytes that a blob is expected to need soon."""
        remaining = self._remaining(node, space)
        return min(remaining, max(node.size - remaining, min(_AHEAD_BYTES, space.free // _AHEAD_SHARE)))


def _is_full(space: Space, free: int) -> bool:
    return free < min(space.total // _FULL_SHARE, _FULL_BYTES)


def _allocated(size: int, space: Space) -> int:
    return -(-size // space.unit) * space.unit
