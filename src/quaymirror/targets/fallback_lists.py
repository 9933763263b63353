"""Lists of referrers under fallback tags, for registries without the referrers API (OCI distribution-spec 1.1)."""

from __future__ import annotations

import json
from typing import Any

import anyio

from ..errors import ContentError, Scope, Side, Unavailable
from ..oci import Descriptor, Digest, Repository, manifest, mediatype
from ..oci.artifact import annotations_of, artifact_type_of
from ..oci.digest_tags import fallback_tag
from ..oci.manifest import Index
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher

_ATTEMPTS = 5


class FallbackLists:
    """Keeps the lists of a registry that has no API for them. The list of one subject changes one entry at a time."""

    def __init__(self, registry: RegistryPusher, reader: RegistryPuller) -> None:
        self._registry = registry
        self._reader = reader
        self._locks: dict[tuple[Repository, Digest], anyio.Lock] = {}

    async def ensure(self, repository: Repository, subject: Digest, node: Descriptor, content: bytes) -> None:
        """Let clients find the referrer `node` of `subject`, which is stored.

        A registry with the API does that itself. Otherwise another writer may replace the list at the same time: it is
        read back, and written again.

        :raises ContentError: if the fallback tag is something else than a list, which stays.
        :raises Unavailable: if the entry is lost again and again.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        if await self._reader.referrers(repository, subject) is not None:
            return

        tag, entry = fallback_tag(subject), _entry(node, content)
        async with self._locks.setdefault((repository, subject), anyio.Lock()):
            for _ in range(_ATTEMPTS):
                document = await self._read(repository, tag)
                entries = document["manifests"]
                if any(isinstance(each, dict) and each.get("digest") == entry["digest"] for each in entries):
                    return

                raw = json.dumps({**document, "manifests": [*entries, entry]}).encode()
                list_node = Descriptor(mediatype.OCI_INDEX, Digest.of(raw), len(raw))
                await self._registry.put_manifest(repository, tag, list_node, raw)

        raise Unavailable(f"{repository}:{tag}: the entry of {node.digest} is lost again and again", side=Side.TARGET)

    async def _read(self, repository: Repository, tag: str) -> dict[str, Any]:
        """Return the list under a tag, an empty one if it does not exist."""
        found = await self._registry.head_manifest(repository, tag)
        if found is None:
            return {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": []}

        node = await self._reader.manifest(repository, found.digest)
        if not isinstance(node, Index) or node.descriptor.media_type != mediatype.OCI_INDEX:
            raise ContentError(
                f"{repository}:{tag} is not a list of referrers: it stays as it is, and its referrers can't be listed",
                scope=Scope.IMAGE,
                side=Side.TARGET,
            )

        document: dict[str, Any] = json.loads(node.raw)
        return document


def _entry(node: Descriptor, content: bytes) -> dict[str, Any]:
    parsed = manifest.parse_stored(content, node.digest)
    entry: dict[str, Any] = {
        "mediaType": node.media_type,
        "digest": str(node.digest),
        "size": node.size,
        "artifactType": artifact_type_of(parsed),
    }
    found = dict(annotations_of(parsed))
    return {**entry, "annotations": found} if found else entry
