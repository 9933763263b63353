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
        """Return the file with the content of `node`, by its name and size, None if it has none."""


class BlobSharing:
    """The blobs that the targets of concurrent runs can copy from each other.

    A copy is hashed like content from the network: no target has to trust another one.
    """

    def __init__(self) -> None:
        self._providers: list[BlobProvider] = []
        self._fetched: dict[Digest, anyio.Event] = {}

    def register(self, provider: BlobProvider) -> None:
        """Let others copy from `provider`, even after its own run has ended: its files stay where they are."""
        self._providers.append(provider)

    @asynccontextmanager
    async def exclusive(self, digest: Digest) -> AsyncIterator[None]:
        """Keep other targets from fetching this blob during the context; wait for one that does."""
        while (ended := self._fetched.get(digest)) is not None:
            await ended.wait()

        ended = self._fetched[digest] = anyio.Event()
        try:
            yield
        finally:
            del self._fetched[digest]
            ended.set()

    def locate(self, node: Descriptor, *, borrower: object) -> Path | None:
        """Return the file of a target other than `borrower` with the content of `node`, None if no target has it."""
        files = (provider.blob_file(node) for provider in self._providers if provider is not borrower)
        return next((file for file in files if file is not None), None)

    async def copy(self, blob: Descriptor, sink: Sink, *, borrower: object) -> bool:
        """Copy `blob` from another target to `sink`; return False if that failed, and it has to be fetched.

        :raises QuaymirrorError: if the failure ends the borrower's run.
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
            return False  # removed in the meantime
        except QuaymirrorError as error:
            if error.scope is Scope.RUN:
                raise

            return False

        return True


async def _chunks(content: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    # The file is closed by the caller: a sink that has all bytes does not iterate to the end.
    while chunk := await content.read(_READ_BYTES):
        yield chunk
