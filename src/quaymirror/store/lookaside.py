"""Signatures by GPG keys that the mirror has: a lookaside like those that registries.d names."""

from __future__ import annotations

from collections.abc import Iterable

from ..oci import Digest
from ..trust.evidence import MAX_SIGNATURES
from ..trust.lookaside import folder_name
from ..trust.names import DockerName
from ..trust.payload import MAX_PAYLOAD_BYTES
from .storage import Storage

_STORED = ".quaymirror/lookaside"


def stored_messages(storage: Storage, name: DockerName, digest: Digest) -> tuple[bytes, ...]:
    """Return the signed messages that the mirror has for a manifest. Blocks."""
    messages: list[bytes] = []
    while len(messages) < MAX_SIGNATURES:
        key = f"{_STORED}/{folder_name(name, digest)}/signature-{len(messages) + 1}"
        message = storage.read(key, MAX_PAYLOAD_BYTES)
        if message is None:
            break

        messages.append(message)

    return tuple(messages)


def store_messages(storage: Storage, name: DockerName, digest: Digest, messages: Iterable[bytes]) -> None:
    """Keep the signed messages for a manifest in the mirror, in the form of a lookaside. Blocks."""
    for number, message in enumerate(messages, 1):
        storage.put(f"{_STORED}/{folder_name(name, digest)}/signature-{number}", message)
