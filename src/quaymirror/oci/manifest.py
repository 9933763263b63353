"""Manifests and indexes: parsed once, their bytes kept (OCI image-spec, manifest.md and image-index.md).

Nothing here is ever serialised again: `raw` is what has the digest, what is stored and what is pushed. What Quay or Go
accepts is accepted, however unusual; what could mean two things, or lies, is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedContent
from . import mediatype
from .descriptor import MEANINGFUL, Descriptor, expect_fields, whole_number
from .digest import Digest

# The distribution-spec lets a registry refuse manifests over 4 MiB, so none that can be pulled is larger.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
# Far above any image that exists, far below what would hurt.
MAX_LAYERS = 1_000
MAX_CHILDREN = 2_000
MAX_DEPTH = 4
# Of one image, all manifests and all distinct blobs together: each of the former may be 4 MiB and name 1,000 layers.
MAX_IMAGE_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_IMAGE_BLOBS = 10_000
_SCHEMA1 = "Docker schema 1 image: obsolete, has no content digests; push it again to convert it"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image (or artifact) for one platform: a config and layers, outermost last."""

    raw: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that has to be there before this manifest may be."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests or further indexes, mostly one a platform."""

    raw: bytes
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Opaque:
    """A child of an index of a type that is not known here: mirrored as it is, and nothing below it."""

    raw: bytes
    descriptor: Descriptor


Node = Manifest | Index | Opaque


def parse(raw: bytes, media_type: str, *, digest: Digest | None = None) -> Manifest | Index:
    """Return what `raw` says, believing neither side alone: the media type of the answer and of the body must agree.

    `media_type` is the essence of the Content-Type, '' where there was none. `digest` is what `raw` was already
    verified against; without one its sha256 is computed.

    :raises UnsupportedContent: for anything that isn't a manifest or index of the OCI image-spec or of Docker's
        schema 2, says two things at once (CVE-2021-41190), or is larger than any real one.
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
    """Return what `raw`, which was stored under `digest` and has no Content-Type any more, says.

    Docker's manifests always name their type, OCI's may leave it out; then the fields tell which one it is.

    :raises UnsupportedContent: as `parse`.
    """
    document = _load(raw)
    implied = mediatype.OCI_INDEX if "manifests" in document else mediatype.OCI_MANIFEST
    return parse(raw, "" if document.get("mediaType") else implied, digest=digest)


def parse_child(raw: bytes, media_type: str, expected: Descriptor) -> Node:
    """Return what `raw` says, which was verified against `expected`; of a type that is not known, only its bytes.

    :raises UnsupportedContent: as `parse`.
    """
    if expected.is_manifest or media_type in mediatype.INDEXES | mediatype.MANIFESTS:
        return parse(raw, media_type, digest=expected.digest)

    if expected.media_type in mediatype.SCHEMA1:
        raise UnsupportedContent(_SCHEMA1)

    return Opaque(raw, Descriptor(expected.media_type, expected.digest, len(raw)))


def _subject(document: dict[str, Any]) -> Descriptor | None:
    """Return what the document refers to; it need not be there, so a digest that nobody can verify does no harm."""
    subject = document.get("subject")
    if subject is None:
        return None

    expect_fields(subject, "subject")
    try:
        return Descriptor.parse(subject, where="subject")
    except UnsupportedContent:
        return None


def _load(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise UnsupportedContent(f"manifest of {len(raw):,} bytes; the limit is {MAX_MANIFEST_BYTES:,}")

    try:
        # Decoded here: json guesses UTF-16 and UTF-32 too, which no other tool takes for JSON.
        document = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UnsupportedContent("manifest is not JSON") from None

    return expect_fields(document, "manifest")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key given twice one parser takes the first value, another one the last: nobody can verify that."""
    fields = dict(pairs)
    if len(fields) != len(pairs) and any(
        count > 1 for key, count in Counter(key for key, _ in pairs).items() if key.casefold() in MEANINGFUL
    ):
        raise UnsupportedContent("manifest has the same key twice in one object")

    return fields


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are JavaScript, not JSON


def _agreed_type(document: dict[str, Any], header: str) -> str:
    body = document.get("mediaType")
    if body is not None and not isinstance(body, str):
        raise UnsupportedContent("mediaType is not a text")

    media_type = header or body or ""
    if media_type in mediatype.SCHEMA1 or document.get("schemaVersion") == 1:
        raise UnsupportedContent(_SCHEMA1)

    if body and body != media_type:
        raise UnsupportedContent(f"served as {header[:100]!r}, but calls itself {body[:100]!r}")

    if media_type not in mediatype.INDEXES | mediatype.MANIFESTS:
        raise UnsupportedContent(f"no manifest of a known type: {media_type[:100]!r}")

    if not body and media_type in mediatype.DOCKER:
        # Docker's schema 2 requires the field, and without it the bytes alone, on a disk, would read as OCI's.
        raise UnsupportedContent("a Docker manifest that does not name its mediaType")

    if whole_number(document.get("schemaVersion")) != 2:
        raise UnsupportedContent("schemaVersion is not 2")

    return media_type


def _refuse_keys(document: dict[str, Any], keys: tuple[str, ...], kind: str) -> None:
    # Whatever their case: Go's decoder, which most other tools use, doesn't mind it (see `expect_fields`).
    ambiguous = [key for key in document if key.casefold() in keys]
    if ambiguous:
        raise UnsupportedContent(f"says it is {kind}, but has {', '.join(ambiguous)}")


def _descriptors(document: dict[str, Any], key: str, limit: int) -> tuple[Descriptor, ...]:
    entries = document.get(key, "")
    if entries is None:
        return ()  # as in Go, whose tools write it

    if not isinstance(entries, list):
        raise UnsupportedContent(f"{key} is not a list")

    if len(entries) > limit:
        raise UnsupportedContent(f"{key} has {len(entries):,} entries; the limit is {limit:,}")

    return tuple(Descriptor.parse(entry, where=f"{key}[{number}]") for number, entry in enumerate(entries))
