"""The signatures by GPG keys of a mirror, as podman reads them from a lookaside (registries.d)."""

from __future__ import annotations

import re
from functools import partial

import anyio.to_thread

from ..errors import InvalidName, QuaymirrorError
from ..oci import Digest
from ..oci.reference import is_repository_name
from ..store.lookaside import stored_messages
from ..trust.names import DockerName
from .messages import Answer, Request, error_answer
from .registry import ServedRegistry

LOOKASIDE = "/lookaside/"
_ROUTE = re.compile(
    rf"{LOOKASIDE}(?P<name>[^@]+)@(?P<algorithm>[a-z0-9]+)=(?P<encoded>[0-9a-f]+)/signature-(?P<number>[1-9][0-9]?)"
)


async def answer_signature(registry: ServedRegistry, request: Request) -> Answer:
    """Answer with a signature of a manifest that its repository has."""
    try:
        message = await _message(registry, request.path)
    except QuaymirrorError as error:
        return error_answer(500, "UNKNOWN", "the signature can't be read here", note=error.message)

    if message is None:
        return error_answer(404, "NOT_FOUND", "the mirror has no such signature")

    return Answer(200, {"Content-Type": "application/octet-stream", "Cache-Control": "no-cache"}, message)


async def _message(registry: ServedRegistry, path: str) -> bytes | None:
    match = _ROUTE.fullmatch(path)
    if match is None or not is_repository_name(match["name"]):
        return None

    try:
        digest = Digest(match["algorithm"], match["encoded"])
    except InvalidName:
        return None

    repository = registry.repository(match["name"])
    found = await registry.find(repository, digest) if repository is not None else None
    if found is None:
        return None

    place, number = found[0], int(match["number"])
    # The host is not a part of the folder.
    name = DockerName(f"localhost/{place.name}")
    read = partial(stored_messages, place.mirror.storage, name, digest)
    messages = await anyio.to_thread.run_sync(read)
    return messages[number - 1] if number <= len(messages) else None
