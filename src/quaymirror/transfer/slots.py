"""The limits of concurrent transfers, which all runs share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count

import anyio

from ..oci.digest import Digest


class FetchSlots:
    """Slots for images that still have blobs to begin, and for blobs that are being fetched."""

    def __init__(self, images: int, blobs: int) -> None:
        self.blobs = blobs
        """The number of slots for blobs."""
        self.image_limit: anyio.CapacityLimiter = anyio.CapacityLimiter(images)
        self.holders: dict[int, ImageSlot] = {}
        self.tickets: Iterator[int] = count(1)
        self._blob_limit = anyio.CapacityLimiter(blobs)

    @asynccontextmanager
    async def blob(self, digest: Digest, ticket: int) -> AsyncIterator[None]:
        """Hold a slot for the blob `digest` of the image with the slot `ticket`."""
        borrower = object()
        await _take(self._blob_limit, borrower)
        try:
            if holder := self.holders.get(ticket):
                holder.begun(digest)

            yield
        finally:
            self._blob_limit.release_on_behalf_of(borrower)


class ImageSlot:
    """A slot of one image, held as a context and released early, once all of its blobs have begun.

    Images share most of their layers. Otherwise all slots would be held by images that wait for the same few layers, or
    for the last layer of each, while nothing else is fetched.
    """

    def __init__(self, slots: FetchSlots) -> None:
        self._slots = slots
        self._waiting: set[Digest] = set()
        self.ticket: int = next(slots.tickets)
        """The number of the slot; jobs carry it, since they are messages."""

    async def __aenter__(self) -> ImageSlot:
        await _take(self._slots.image_limit, self)
        self._slots.holders[self.ticket] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def expect(self, digests: Iterable[Digest]) -> None:
        """Set the blobs that have to begin before the slot is released."""
        self._waiting = set(digests)
        self._release_if_unneeded()

    def begun(self, digest: Digest) -> None:
        """Record that a blob has begun, or is not needed any more."""
        self._waiting.discard(digest)
        self._release_if_unneeded()

    def release(self) -> None:
        """Release the slot, if it is still held."""
        if self._slots.holders.pop(self.ticket, None) is not None:
            self._slots.image_limit.release_on_behalf_of(self)

    def _release_if_unneeded(self) -> None:
        if not self._waiting:
            self.release()


async def _take(limit: anyio.CapacityLimiter, borrower: object) -> None:
    """Take a slot, without a turn of the event loop if one is free."""
    try:
        limit.acquire_on_behalf_of_nowait(borrower)
    except anyio.WouldBlock:
        await limit.acquire_on_behalf_of(borrower)
