"""Descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ..errors.content import UnsupportedContent
from ..errors.usage import InvalidName
from ..values import dataclass, pattern
from . import mediatype
from .digest import Digest
from .platform import Platform

# SQLite and other tools count bytes in signed 64 bits.
_MAX_SIZE = 2**63 - 1
# Looser than RFC 6838, as the types of artifacts are; but a media type becomes a header: one line of ASCII.
_MEDIA_TYPE = pattern(r"[!-~](?:[ -~]{0,253}[!-~])?")
_MAX_PLATFORM_TEXT = 255
# Floats above it are not exact.
_MAX_FLOAT = 2.0**53
# The keys of manifests and descriptors that are used here, in lower case.
MEANINGFUL = frozenset(
    {"mediatype", "digest", "size", "platform", "annotations", "artifacttype", "urls", "data"}
    | {"os", "architecture", "variant", "os.version"}
    | {"schemaversion", "config", "layers", "manifests", "subject"}
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The media type, digest and size in bytes of content."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()

    @property
    def is_manifest(self) -> bool:
        """Return True if this is a manifest or an index, not the content of one."""
        return self.media_type in mediatype.INDEXES or self.media_type in mediatype.MANIFESTS

    @classmethod
    def parse(cls, document: object, *, where: str) -> Descriptor:
        """Return the descriptor in the JSON value `document`; `where` names it in messages (`layers[3]`).

        :raises UnsupportedContent: if a field is missing or malformed, or embedded `data` does not match.
        """
        fields = expect_fields(document, where)
        descriptor = cls(
            media_type=_media_type(fields, where),
            digest=_digest(fields, where),
            size=_size(fields, where),
            platform=_platform(fields.get("platform"), where),
            annotations=_annotations(fields.get("annotations"), where),
            artifact_type=_artifact_type(fields.get("artifactType")),
            urls=_urls(fields.get("urls"), where),
        )
        _check_data(fields.get("data"), descriptor, where)
        return descriptor


def expect_fields(document: object, where: str) -> dict[str, Any]:
    """Return `document` if it is a JSON object whose meaningful keys differ in more than case.

    Go's decoder ignores case, so other tools may read another value if there are both `digest` and `Digest`.

    :raises UnsupportedContent: otherwise.
    """
    if not isinstance(document, dict):
        raise UnsupportedContent(f"{where} is not an object")

    known = [folded for key in document if (folded := key.casefold()) in MEANINGFUL]
    if len(set(known)) != len(known):
        raise UnsupportedContent(f"{where} has keys that differ only in case")

    return document


def whole_number(value: object) -> int | None:
    """Return a JSON `value` as an integer, None if it is not one: `2.0` is 2, but `true` is not a number."""
    if type(value) is float and value.is_integer() and abs(value) <= _MAX_FLOAT:
        return int(value)

    return value if type(value) is int else None


def _media_type(fields: Mapping[str, Any], where: str) -> str:
    """Return the media type; that of unknown bytes for a string that is not one, which Quay accepts."""
    value = fields.get("mediaType")
    if not isinstance(value, str):
        raise UnsupportedContent(f"{where}.mediaType is not a string")

    return value if _MEDIA_TYPE.fullmatch(value) else mediatype.UNKNOWN


def _artifact_type(value: object) -> str | None:
    return value if isinstance(value, str) and _MEDIA_TYPE.fullmatch(value) else None


def _digest(fields: Mapping[str, Any], where: str) -> Digest:
    value = fields.get("digest")
    if not isinstance(value, str) or not value:
        raise UnsupportedContent(f"{where}.digest is not a string")

    try:
        return Digest.parse(value)
    except InvalidName as error:
        raise UnsupportedContent(f"{where}.digest: {error.message}") from None


def _size(fields: Mapping[str, Any], where: str) -> int:
    value = whole_number(fields.get("size"))
    if value is None or not 0 <= value <= _MAX_SIZE:
        raise UnsupportedContent(f"{where}.size is not a size in bytes")

    return value


def _platform(document: object, where: str) -> Platform | None:
    if document is None:
        return None

    fields = expect_fields(document, f"{where}.platform")
    parts = [fields.get(key) for key in ("os", "architecture", "variant", "os.version")]
    if not all(part is None or isinstance(part, str) for part in parts):
        raise UnsupportedContent(f"{where}.platform holds something that is not a string")

    if any(len(part or "") > _MAX_PLATFORM_TEXT for part in parts):
        return None

    return Platform(*(part or "" for part in parts))


def _annotations(document: object, where: str) -> dict[str, str]:
    if document is None:
        return {}

    if not isinstance(document, dict):
        raise UnsupportedContent(f"{where}.annotations is not an object")

    return {key: value for key, value in document.items() if isinstance(value, str)}


def _urls(document: object, where: str) -> tuple[str, ...]:
    if document is None:
        return ()

    if not isinstance(document, list) or not all(isinstance(url, str) for url in document):
        raise UnsupportedContent(f"{where}.urls is not a list of strings")

    return tuple(document)


def _check_data(data: object, descriptor: Descriptor, where: str) -> None:
    """Check embedded content. It is never used, but if it is wrong, the document can't be trusted."""
    if data is None:
        return

    try:
        content = base64.b64decode(data, validate=True) if isinstance(data, str) else None
    except ValueError:  # binascii.Error, or a string that isn't ASCII
        content = None

    if content is None or len(content) != descriptor.size or not descriptor.digest.matches(content):
        raise UnsupportedContent(f"{where}.data does not match the descriptor")
