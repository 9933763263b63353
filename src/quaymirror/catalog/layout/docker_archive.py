"""A docker-archive (`docker save`, `podman save`) as the files of a layout.

Its layers are not compressed, so the digests of its images are those of no registry: their manifests are made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ConfigError
from ...oci import Digest, mediatype
from ...store.documents import REF_NAME
from ...store.storage import INDEX, blob_key
from ...untrusted import InvalidDocument, parse_object
from .files import ArchiveFiles, LayoutFiles, Location, opened, read

LIST = "manifest.json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MAX_LIST = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"


class DockerArchiveFiles:
    """The files of a layout that has the images of a docker-archive.

    :raises ConfigError: if the archive makes no sense, or lacks a file that it names.
    """

    def __init__(self, archive: ArchiveFiles, path: str) -> None:
        self._archive = archive
        self._path = path
        self._files: dict[str, Location] = {}
        self._digests: dict[str, Digest] = {}
        entries = [entry for image in self._images() for entry in self._entries(image)]
        self._add(INDEX, json.dumps({"schemaVersion": 2, "manifests": entries}).encode())

    def locate(self, key: str) -> Location | None:
        """Return where the bytes of a file are; see `LayoutFiles.locate`."""
        return self._files.get(key)

    def _images(self) -> Iterator[Mapping[str, Any]]:
        content = read(self._archive, LIST, _MAX_LIST)
        try:
            # The parser takes objects only.
            images = parse_object(b'{"images":' + (content or b"") + b"}", limit=_MAX_LIST + 20)["images"]
        except InvalidDocument as error:
            raise ConfigError(f"{self._path}: {LIST} {error}") from None

        if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
            raise ConfigError(f"{self._path}: {LIST} is not a list of images")

        yield from images

    def _entries(self, image: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield an entry of the index for each name of an image, whose manifest is made."""
        config, layers, names = image.get("Config"), image.get("Layers") or [], image.get("RepoTags") or []
        if not isinstance(config, str) or not isinstance(layers, list) or not isinstance(names, list):
            raise ConfigError(f"{self._path}: an image in {LIST} makes no sense")

        nodes = [self._node(str(layer), _LAYER) for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "config": self._node(config, _CONFIG),
            "layers": nodes,
        }
        content = json.dumps(document, separators=(",", ":")).encode()
        digest = Digest.of(content)
        self._add(blob_key(digest), content)
        for name in names:
            yield {
                "mediaType": mediatype.OCI_MANIFEST,
                "digest": str(digest),
                "size": len(content),
                "annotations": {REF_NAME: str(name)},
            }

    def _node(self, name: str, media_type: str) -> dict[str, Any]:
        """Return the descriptor of a member, which gets the name of its digest."""
        place = self._archive.locate(name)
        if place is None:
            raise ConfigError(f"{self._path} lacks {name[:150]!r}, which {LIST} names")

        if name not in self._digests:
            self._digests[name] = _digest_of(place)

        digest = self._digests[name]
        self._files[blob_key(digest)] = place
        is_gzip = media_type == _LAYER and _starts_with(place, _GZIP)
        return {"mediaType": media_type + ("+gzip" if is_gzip else ""), "digest": str(digest), "size": place.size}

    def _add(self, key: str, content: bytes) -> None:
        self._files[key] = Location(None, 0, len(content), content)


def is_docker_archive(files: LayoutFiles) -> bool:
    """Return True if `files` are those of a docker-archive."""
    return files.locate(LIST) is not None


def _digest_of(place: Location) -> Digest:
    hasher, left = Digest.of(b"").hasher(), place.size
    with opened(place) as file:
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            hasher.update(chunk)
            left -= len(chunk)

    return Digest("sha256", hasher.hexdigest())


def _starts_with(place: Location, magic: bytes) -> bool:
    with opened(place) as file:
        return file.read(min(place.size, len(magic))) == magic
