"""What a transfer needs of the place where images land."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..oci import Descriptor, Digest, Reference
from ..store.records import ImageRecord


class Piece(Protocol):
    """Where some consecutive bytes of a blob are written to, from `offset` on up to `end`, which is not included."""

    @property
    def offset(self) -> int:
        """Where the next byte goes."""

    @property
    def end(self) -> int:
        """Where the piece ends."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`. What came before an error is kept.

        :raises SizeMismatch: when they go beyond the piece.
        :raises ReadInterrupted: when they end before it does.
        """

    async def land(self) -> None:
        """Have the piece, all of which came, count."""


class Scattered(Protocol):
    """A sink that takes the bytes of a blob in any order."""

    def gaps(self) -> Sequence[tuple[int, int]]:
        """Return the stretches that are missing, `(start, end)`, in order."""

    async def piece(self, start: int, end: int) -> Piece:
        """Return the place for a piece in a gap; the first is asked for alone."""


class Sink(Protocol):
    """Where one blob is written to, from its start or from where an earlier attempt got."""

    @property
    def offset(self) -> int:
        """How many bytes are there, from the start."""

    async def ready(self) -> None:
        """Make ready for an attempt: `offset` says afterwards where it has to begin."""

    def scattered(self) -> Scattered | None:
        """Return the sink as one that takes pieces, None if it can't."""

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Append `chunks`. What the source raises while they come passes through.

        :raises SizeMismatch: when they are more than was announced.
        """

    async def restart(self) -> None:
        """Forget everything written so far."""

    async def commit(self) -> None:
        """Make what was written the blob.

        :raises ReadInterrupted: when bytes are missing.
        :raises DigestMismatch: when they are the wrong ones.
        """


class Target(Protocol):
    """Where images land: children before parents, the name last.

    Every call says for which image it is, since a registry keeps blobs by repository.
    """

    @property
    def is_final(self) -> bool:
        """Whether what lands stays where it is; else it takes room until its image has been made of it."""

    async def holds(self, reference: Reference, platforms: str) -> bool:
        """Tell whether the pinned `reference` is there already, complete and under its name."""

    async def missing(self, reference: Reference, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of `nodes` whose content is not there for `reference`."""

    def has(self, reference: Reference, node: Descriptor) -> bool:
        """Tell whether the content of `node`, which was missing, is there by now."""

    def flight(self, reference: Reference, node: Descriptor) -> Hashable:
        """Return what transfers of `node` have to share in order to happen once."""

    async def read(self, digest: Digest) -> bytes | None:
        """Return the verified content of a manifest that is there, None if it is not."""

    def sink(self, reference: Reference, node: Descriptor) -> AbstractAsyncContextManager[Sink | None]:
        """Hand out the place for a blob; None if it got there without its bytes crossing the network."""

    async def put(self, reference: Reference, node: Descriptor, content: bytes) -> None:
        """Store a manifest, whose children are there."""

    async def commit(self, record: ImageRecord) -> None:
        """Give an image its name; when this returns, it is there to stay."""
