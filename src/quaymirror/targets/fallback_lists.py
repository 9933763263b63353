"""Lists of referrers under fallback tags, for registries without the referrers API (OCI distribution-spec 1.1)."""

from __future__ import annotations

import json
import random
import time
from dataclasses import field
from functools import partial
from typing import Any

import anyio

from ..errors import ContentError, Scope, Side, Unavailable
from ..oci import Descriptor, Digest, Repository, manifest, mediatype
from ..oci.artifact import annotations_of, artifact_type_of
from ..oci.digest_tags import fallback_tag
from ..oci.manifest import Index
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..tasks import run_all
from ..values import dataclass

_ATTEMPTS = 20
# A writer that has read a list replaces it within this time, or a few times what that takes here.
_LEAST_SETTLE_SECONDS = 0.3
_SETTLE_FACTOR = 3


@dataclass(slots=True)
class _List:
    """The list of one subject: the entries that this run has added, and its `digest` when it last had all of them."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    digest: Digest | None = None
    seen: float = 0.0


class FallbackLists:
    """Keeps the lists of a registry that has no API for them.

    Tags can't be replaced conditionally, so another writer may replace a list at the same time and lose an entry. Each
    list is read back after it was written, and once more by `settle`, when no other writer can hold an older one.
    """

    def __init__(self, registry: RegistryPusher, reader: RegistryPuller) -> None:
        self._registry = registry
        self._reader = reader
        self._lists: dict[tuple[Repository, Digest], _List] = {}
        self._slowest = 0.0

    async def ensure(self, repository: Repository, subject: Digest, node: Descriptor, content: bytes) -> None:
        """Let clients find the referrer `node` of `subject`, which is stored. A registry with the API does that itself.

        :raises ContentError: if the fallback tag is something else than a list, which stays.
        :raises Unavailable: if the entry is lost again and again.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        if await self._reader.referrers(repository, subject) is not None:
            return

        own = self._lists.setdefault((repository, subject), _List())
        async with own.lock:
            own.entries[str(node.digest)] = _entry(node, content)
            await self._write(repository, fallback_tag(subject), own)

    async def settle(self) -> None:
        """Wait until no other writer can replace the lists that this run has changed by older ones.

        :raises Unavailable: if entries are lost again and again.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        await run_all(
            partial(self._settle, repository, fallback_tag(subject), own)
            for (repository, subject), own in self._lists.items()
        )
        self._lists.clear()

    async def _settle(self, repository: Repository, tag: str, own: _List) -> None:
        for _ in range(_ATTEMPTS):
            settled = own.seen + max(_LEAST_SETTLE_SECONDS, _SETTLE_FACTOR * self._slowest)
            await anyio.sleep(max(0.0, settled - time.monotonic()))
            found = await self._registry.head_manifest(repository, tag)
            if found is not None and found.digest == own.digest:
                return

            await self._write(repository, tag, own)

    async def _write(self, repository: Repository, tag: str, own: _List) -> None:
        """Add the entries that the list lacks; return when it was read with all of them."""
        for attempt in range(_ATTEMPTS):
            if attempt > 1:  # others write it, too
                await anyio.sleep(random.uniform(0, _LEAST_SETTLE_SECONDS))

            began = time.monotonic()
            document, digest = await self._read(repository, tag)
            listed = {each.get("digest") for each in document["manifests"] if isinstance(each, dict)}
            lacking = [entry for entry in own.entries.values() if entry["digest"] not in listed]
            if not lacking:
                own.digest, own.seen = digest, time.monotonic()
                return

            raw = json.dumps({**document, "manifests": [*document["manifests"], *lacking]}).encode()
            node = Descriptor(mediatype.OCI_INDEX, Digest.of(raw), len(raw))
            await self._registry.put_manifest(repository, tag, node, raw)
            self._slowest = max(self._slowest, time.monotonic() - began)

        raise Unavailable(
            f"{repository}:{tag}: other clients replace this list of referrers again and again", side=Side.TARGET
        )

    async def _read(self, repository: Repository, tag: str) -> tuple[dict[str, Any], Digest | None]:
        """Return the list under a tag with its digest, an empty one if it does not exist."""
        found = await self._registry.head_manifest(repository, tag)
        if found is None:
            return {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": []}, None

        node = await self._reader.manifest(repository, found.digest)
        if not isinstance(node, Index) or node.descriptor.media_type != mediatype.OCI_INDEX:
            raise ContentError(
                f"{repository}:{tag} is not a list of referrers: it stays as it is, and its referrers can't be listed",
                scope=Scope.IMAGE,
                side=Side.TARGET,
            )

        document: dict[str, Any] = json.loads(node.raw)
        return document, found.digest


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
