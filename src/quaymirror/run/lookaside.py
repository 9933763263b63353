"""Signatures by GPG keys, from the places that registries.d names for them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import anyio.to_thread

from ..errors import ConfigError, NotFound, Scope, StoreError, from_os_error
from ..http.authorizer import Fixed
from ..http.exchange import Request
from ..http.origin import Origin, request_target
from ..oci import Reference
from ..oci.manifest import Node
from ..trust.evidence import MAX_SIGNATURES
from ..trust.lookaside import Lookasides
from ..trust.payload import MAX_PAYLOAD_BYTES
from ..trust.policy import docker_name
from .wiring import SourceConnections


class LookasideSignatures:
    """Reads signatures by GPG keys; those at an HTTP server are requested without credentials."""

    def __init__(self, places: Lookasides, connections: SourceConnections | None = None) -> None:
        self._places = places
        self._connections = connections

    async def messages(self, reference: Reference, node: Node) -> tuple[bytes, ...]:
        """Return the signed messages for a manifest of the image `reference`.

        :raises QuaymirrorError: if they can't be read.
        """
        folder = self._places.folder(docker_name(reference), node.descriptor.digest)
        scheme = urlsplit(folder).scheme if folder else ""
        if scheme == "file":
            path = Path(unquote(urlsplit(folder).path))
            return await anyio.to_thread.run_sync(read_messages, path)

        return await self._fetch(folder) if scheme in ("http", "https") and self._connections is not None else ()

    async def _fetch(self, folder: str) -> tuple[bytes, ...]:
        assert self._connections is not None
        try:
            origin = Origin.of(folder)
        except ValueError as error:
            raise ConfigError(f"the lookaside {folder} of registries.d is {error}") from None

        client = (await self._connections.get(origin)).client(origin, Fixed())
        messages: list[bytes] = []
        for number in range(1, MAX_SIGNATURES + 1):
            request = Request(request_target(f"{folder}/signature-{number}"), kind="blobs", accept_any_404=True)
            try:
                messages.append(await client.fetch(request, limit=MAX_PAYLOAD_BYTES, parse=lambda _, body: body))
            except NotFound:
                break

        return tuple(messages)


def read_messages(folder: Path) -> tuple[bytes, ...]:
    """Return the signed messages in a folder, which need not exist. Blocks.

    :raises StoreError: if one of them can't be read.
    """
    messages: list[bytes] = []
    for number in range(1, MAX_SIGNATURES + 1):
        file = folder / f"signature-{number}"
        try:
            with file.open("rb") as stream:
                messages.append(stream.read(MAX_PAYLOAD_BYTES))
        except FileNotFoundError:
            break
        except OSError as error:
            raise from_os_error(error, "read", file, kind=StoreError).replace(scope=Scope.IMAGE) from None

    return tuple(messages)
