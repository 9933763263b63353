"""What a transfer needs of the place where images land."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..oci import Descriptor, Digest, Reference
from ..store.state import ImageRecord


class Sink(Protocol):
    """Where one blob is written to, from its start or from where an earlier attempt got."""

    @property
    def offset(self) -> int:
        """How many bytes are there, from the start."""

    async def ready(self) -> None:
        """Make ready for an attempt: `offset` says afterwards where it has to begin."""

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
