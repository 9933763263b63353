"""Manifests and indexes (OCI image-spec, manifest.md and image-index.md).

They are never serialized again: `raw` has the digest, is stored and pushed. Documents that Quay or Go accept are
accepted, however unusual; ambiguous or wrong ones are refused.
"""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedContent
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from . import mediatype
from .descriptor import MEANINGFUL, Descriptor, expect_fields, whole_number
from .digest import Digest

# The distribution-spec lets a registry reject manifests over 4 MiB.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
# Far above any real image, far below harmful numbers.
MAX_LAYERS = 1_000
MAX_CHILDREN = 2_000
MAX_DEPTH = 4
# Of all manifests and distinct blobs of one image: each manifest may have 4 MiB and 1,000 layers.
MAX_IMAGE_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_IMAGE_BLOBS = 10_000
_SCHEMA1 = "Docker schema 1 image: obsolete, without content digests; push it again to convert it"


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image (or artifact) for one platform: a config and layers, outermost last."""

    raw: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, which must be stored before the manifest."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests or further indexes, usually one per platform."""

    raw: bytes
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Opaque:
    """A child of an index with an unknown media type, which is mirrored as it is."""

    raw: bytes
    descriptor: Descriptor


Node = Manifest | Index | Opaque


def parse(raw: bytes, media_type: str, *, digest: Digest | None = None) -> Manifest | Index:
    """Return the manifest or index in `raw`. The media types of the response and of the body must agree.

    `media_type` is the essence of the Content-Type, '' if there was none. `digest` is the verified digest of `raw`; if
    it is None, the sha256 is computed.

    :raises UnsupportedContent: if it is not a manifest or index of the OCI image-spec or of Docker's schema 2, is
        ambiguous (CVE-2021-41190), or exceeds a limit.
    """
    document = _load(raw)
    media_type = _agreed_type(document, media_type)
    descriptor = Descriptor(media_type, digest or Digest.of(raw), len(raw))
    subject = _subject(document)
    if media_type in mediatype.INDEXES:
        _refuse_keys(document, ("config", "layers", "fslayers", "history"), "an index")
        manifests = _descriptors(document, "manifests", MAX_CHILDREN)
        return Index(raw, descriptor, manifests, subject)

    _refuse_keys(document, ("manifests", "fslayers", "history"), "a manifest")
    config = Descriptor.parse(document.get("config"), where="config")
    return Manifest(raw, descriptor, config, _descriptors(document, "layers", MAX_LAYERS), subject)


def parse_stored(raw: bytes, digest: Digest) -> Manifest | Index:
    """Return the manifest or index in `raw`, which is stored under `digest`, without a Content-Type.

    Docker's manifests always have a mediaType, OCI's may not; then their fields show which kind it is.

    :raises UnsupportedContent: as `parse`.
    """
    document = _load(raw)
    implied = mediatype.OCI_INDEX if "manifests" in document else mediatype.OCI_MANIFEST
    return parse(raw, "" if document.get("mediaType") else implied, digest=digest)


def parse_child(raw: bytes, media_type: str, expected: Descriptor) -> Node:
    """Return the child of an index in `raw`, which was verified against `expected`.

    :raises UnsupportedContent: as `parse`.
    """
    if expected.is_manifest or media_type in mediatype.INDEXES | mediatype.MANIFESTS:
        return parse(raw, media_type, digest=expected.digest)

    if expected.media_type in mediatype.SCHEMA1:
        raise UnsupportedContent(_SCHEMA1)

    return Opaque(raw, Descriptor(expected.media_type, expected.digest, len(raw)))


def _subject(document: dict[str, Any]) -> Descriptor | None:
    """Return the subject, which need not exist: None if it is malformed, or its digest is not supported."""
    subject = document.get("subject")
    if subject is None:
        return None

    expect_fields(subject, "subject")
    try:
        return Descriptor.parse(subject, where="subject")
    except UnsupportedContent:
        return None


def _load(raw: bytes) -> dict[str, Any]:
    try:
        return expect_fields(parse_object(raw, limit=MAX_MANIFEST_BYTES, unique=MEANINGFUL), "manifest")
    except InvalidDocument as error:
        raise UnsupportedContent(f"manifest {error}") from None


def _agreed_type(document: dict[str, Any], header: str) -> str:
    body = document.get("mediaType")
    if body is not None and not isinstance(body, str):
        raise UnsupportedContent("mediaType is not a string")

    media_type = header or body or ""
    if media_type in mediatype.SCHEMA1 or document.get("schemaVersion") == 1:
        raise UnsupportedContent(_SCHEMA1)

    if body and body != media_type:
        raise UnsupportedContent(f"served as {header[:100]!r}, but its mediaType is {body[:100]!r}")

    if media_type not in mediatype.INDEXES | mediatype.MANIFESTS:
        raise UnsupportedContent(f"unsupported manifest type: {media_type[:100]!r}")

    if not body and media_type in mediatype.DOCKER:
        # Docker's schema 2 requires the field; without it, the stored bytes would be read as OCI's.
        raise UnsupportedContent("a Docker manifest without mediaType")

    if whole_number(document.get("schemaVersion")) != 2:
        raise UnsupportedContent("schemaVersion is not 2")

    return media_type


def _refuse_keys(document: dict[str, Any], keys: tuple[str, ...], kind: str) -> None:
    # In any case: Go's decoder, which most other tools use, ignores it (see `expect_fields`).
    ambiguous = [key for key in document if key.casefold() in keys]
    if ambiguous:
        raise UnsupportedContent(f"is {kind}, but has {', '.join(ambiguous)}")


def _descriptors(document: dict[str, Any], key: str, limit: int) -> tuple[Descriptor, ...]:
    entries = document.get(key, "")
    if entries is None:
        return ()  # as Go's tools write an empty list

    if not isinstance(entries, list):
        raise UnsupportedContent(f"{key} is not a list")

    if len(entries) > limit:
        raise UnsupportedContent(f"{key} has {len(entries):,} entries; the limit is {limit:,}")

    return tuple(Descriptor.parse(entry, where=f"{key}[{number}]") for number, entry in enumerate(entries))
