"""Reservation of free space for the images in progress: a run fails early instead of filling the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..errors import Scope, StoreError
from ..oci import Descriptor, Digest
from .storage import Storage

# Sizes are claims of manifests: one image that claims too much must not end the run. If this many images in a row are
# each larger than the free space, the disk is full.
_MISFITS = 3


class SpaceReservation:
    """The blobs that are going to be stored. `reserve` is called by one thread, `release` by any."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._expected: dict[Digest, Descriptor] = {}
        self._released: deque[Digest] = deque()
        self._misfits = 0

    def release(self, digest: Digest) -> None:
        """End the reservation of a blob whose transfer ended, whether or not it succeeded."""
        self._released.append(digest)

    def reserve(self, nodes: Sequence[Descriptor]) -> None:
        """Reserve space for `nodes`.

        :raises StoreError: if they don't fit by themselves (scope IMAGE), or not beside the reserved space (RUN).
        """
        space = self._storage.free_space()
        if space is None:
            return

        free, unit = space
        while self._released:
            self._expected.pop(self._released.popleft(), None)

        expected = self._expected | {node.digest: node for node in nodes}
        # Parts that are stored already are only subtracted if it matters: that takes two system calls per blob.
        if sum(_allocated(node.size, unit) for node in expected.values()) <= free:
            self._expected, self._misfits = expected, 0
            return

        remaining = {
            digest: _allocated(max(0, node.size - self._storage.stored_bytes(node)), unit)
            for digest, node in expected.items()
        }
        self._check_alone(sum(remaining[node.digest] for node in nodes), free)
        self._expected = {digest: node for digest, node in expected.items() if remaining[digest]}
        needed = sum(remaining.values())
        if needed > free:
            raise StoreError(
                f"{self._storage} needs {needed:,} more bytes for the images in progress, but only {free:,} are free: "
                "free some space, or use --no-space-check"
            )

    def _check_alone(self, needed: int, free: int) -> None:
        self._misfits = self._misfits + 1 if needed > free else 0
        if 0 < self._misfits < _MISFITS:
            raise StoreError(
                f"the image needs {needed:,} more bytes, but only {free:,} are free on the disk of {self._storage}",
                scope=Scope.IMAGE,
            )


def _allocated(size: int, unit: int) -> int:
    return -(-size // unit) * unit
