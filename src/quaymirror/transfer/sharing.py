"""Blobs that several targets need: one fetches, the others copy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from ..errors import QuaymirrorError, Scope
from ..oci import Descriptor, Digest
from ..store.sink import Sink

_READ_BYTES = 1024 * 1024


class BlobProvider(Protocol):
    """A target whose blobs are files."""

    def blob_file(self, node: Descriptor) -> Path | None:
        """Return where the content of `node` is, as far as name and size say, None if it is not there."""


class BlobSharing:
    """What the targets of runs that go on at once have of each other.

    A copy is hashed on its way, as if it came over the network: no target has to believe another one.
    """

    def __init__(self) -> None:
        self._lenders: list[BlobProvider] = []
        self._under_way: dict[Digest, anyio.Event] = {}

    def register(self, lender: BlobProvider) -> None:
        """Let others copy from `lender` from now on, even when its own run has ended: its files stay where they are."""
        self._lenders.append(lender)

    @asynccontextmanager
    async def exclusive(self, digest: Digest) -> AsyncIterator[None]:
        """Wait until no other target is getting this blob; those that come later wait for us."""
        while (landed := self._under_way.get(digest)) is not None:
            await landed.wait()

        landed = self._under_way[digest] = anyio.Event()
        try:
            yield
        finally:
            del self._under_way[digest]
            landed.set()

    def locate(self, node: Descriptor, *, borrower: object) -> Path | None:
        """Return where somebody else than `borrower` has the content of `node`, None if nobody has."""
        files = (lender.blob_file(node) for lender in self._lenders if lender is not borrower)
        return next((file for file in files if file is not None), None)

    async def copy(self, blob: Descriptor, sink: Sink, *, borrower: object) -> bool:
        """Bring `blob` to `sink` from where somebody else has it; tell whether that worked.

        If it did not, the sink is as good as it was: the blob can be fetched into it.

        :raises QuaymirrorError: when the borrower is in trouble that ends its run.
        """
        file = self.locate(blob, borrower=borrower)
        if file is None:
            return False

        try:
            await sink.prepare()
            if sink.offset < blob.size:
                async with await anyio.open_file(file, "rb") as content:
                    await content.seek(sink.offset)
                    await sink.receive(_chunks(content))

            await sink.commit()
        except OSError:
            return False  # it went away while we read it
        except QuaymirrorError as error:
            if error.scope is Scope.RUN:
                raise

            return False

        return True


async def _chunks(content: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    # The file is not ours to close: who has all bytes does not ask for the end, and leaves us in the middle.
    while chunk := await content.read(_READ_BYTES):
        yield chunk
