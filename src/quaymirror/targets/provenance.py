"""The provenance of derived images, as an in-toto statement: the digest of the source, the filters, and the result.

Signatures of the source do not apply to an image with another digest; this says where it comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..__about__ import __version__
from ..emit.job import Emission
from ..errors import NotFound
from ..oci import Descriptor, Digest, Repository, mediatype
from ..registry.pull import RegistryPuller
from ..registry.push import RegistryPusher
from ..store import fsops
from ..store.records import ImageRecord
from .derived_address import DerivedAddress
from .fallback_lists import FallbackLists

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://quaymirror.dev/derivation/v1"
"""The type of the statements that quaymirror makes."""
_EMPTY = "application/vnd.oci.empty.v1+json"
ARTIFACT_TYPE = "application/vnd.in-toto+json"
"""The type of statements in a registry."""
_READ_BYTES = 1024 * 1024
# Files that stand for an image: an archive, or the documents beside its layers.
_HASHED = (".tar", ".json")


def make_provenance(
    address: DerivedAddress, record: ImageRecord, emission: Emission, hashes: Mapping[Path, str]
) -> str:
    """Return the statement about a derived image as JSON, and write it next to files. It blocks.

    `hashes` are the SHA-256 digests of files, in hex, that are known already.

    :raises StoreError: if the disk fails.
    """
    text = json.dumps(_statement(address, record, emission, hashes), indent=1, sort_keys=True)
    if (path := _path(address, record, emission)) is not None:
        fsops.replace_file(path, text.encode() + b"\n")

    return text


class ProvenancePusher:
    """Pushes statements about derived images to their registry, as referrers of these."""

    def __init__(self, registry: RegistryPusher, reader: RegistryPuller) -> None:
        self._registry = registry
        self._lists = FallbackLists(registry, reader)

    async def push(self, repository: str, image: Digest, statement: bytes) -> None:
        """Store a statement about `image`, and let clients find it.

        :raises QuaymirrorError: if the registry does not take it.
        """
        place = Repository(self._registry.registry, repository)
        subject = await self._registry.head_manifest(place, str(image))
        if subject is None:
            raise NotFound(f"{place}@{image} is not there any more", status=404)

        layer = await self._put_blob(place, ARTIFACT_TYPE, statement)
        config = await self._put_blob(place, _EMPTY, b"{}")
        document = {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": _entry(config),
            "layers": [_entry(layer)],
            "subject": _entry(subject),
            "annotations": {"in-toto.io/predicate-type": _PREDICATE},
        }
        raw = json.dumps(document).encode()
        node = Descriptor(mediatype.OCI_MANIFEST, Digest.of(raw), len(raw))
        if not await self._registry.put_manifest(place, str(node.digest), node, raw):
            await self._lists.ensure(place, image, node, raw)

    async def settle(self) -> None:
        """Check that no other writer has replaced a list of referrers; see `FallbackLists.settle`."""
        await self._lists.settle()

    async def _put_blob(self, place: Repository, kind: str, content: bytes) -> Descriptor:
        blob = Descriptor(kind, Digest.of(content), len(content))
        if not await self._registry.has_blob(place, blob):
            upload = await self._registry.begin(place)
            await self._registry.finish(upload, blob, content, length=len(content))

        return blob


def _entry(node: Descriptor) -> dict[str, Any]:
    return {"mediaType": node.media_type, "digest": str(node.digest), "size": node.size}


def _path(address: DerivedAddress, record: ImageRecord, emission: Emission) -> Path | None:
    """Return the file of the statement: `NAME.provenance.json` beside an archive, or in a directory of images."""
    if address.scheme == "tar":
        archive = next((path for path, _ in emission.files), None)
        return None if archive is None else archive.with_name(f"{archive.stem}.provenance.json")

    if address.scheme == "dir":
        return address.directory / f"{quote(record.name, safe='')}.provenance.json"

    return None


def _statement(
    address: DerivedAddress, record: ImageRecord, emission: Emission, hashes: Mapping[Path, str]
) -> dict[str, Any]:
    return {
        "_type": _STATEMENT,
        "subject": _subjects(address, record, emission, hashes),
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"output": address.scheme, "filters": list(address.filters)},
                "internalParameters": {"recipe": address.recipe},
                "resolvedDependencies": [
                    {"uri": f"docker://{record.registry}/{record.name}", "digest": _digest(record.source)},
                    {"name": "the image that was derived", "digest": _digest(record.root.digest)},
                ],
            },
            "runDetails": {
                "builder": {"id": "https://quaymirror.dev", "version": {"quaymirror": __version__}},
                "metadata": {"invocationId": record.run},
            },
        },
    }


def _subjects(
    address: DerivedAddress, record: ImageRecord, emission: Emission, hashes: Mapping[Path, str]
) -> list[dict[str, Any]]:
    if emission.identity:
        return [{"name": record.name, "digest": _digest(Digest.parse(emission.identity))}]

    return [
        {"name": str(path.relative_to(address.directory)), "digest": {"sha256": hashes.get(path) or _hash(path)}}
        for path, _ in emission.files
        if path.name.endswith(_HASHED)
    ]


def _digest(digest: Digest) -> dict[str, str]:
    algorithm, _, encoded = str(digest).partition(":")
    return {algorithm: encoded}


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with fsops.local_errors("read", path), path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            found.update(chunk)

    return found.hexdigest()
