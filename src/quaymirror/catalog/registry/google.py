"""The manifests in lists of tags that Google's registries add: digests without another request.

google/go-containerregistry, `pkg/v1/google/list.go`: numbers are strings, and every manifest has its tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InvalidName
from ...oci import Digest
from ..base import Tag
from ..json_api import is_index_type, parse_size

_MAX_DIGITS = 18


def described_tags(document: Mapping[str, Any]) -> dict[str, Tag]:
    """Return the tags, by name, that the map of manifests in a list of tags describes; {} without one.

    A tag of two manifests, and anything that makes no sense, is left out: the registry is asked for it.
    """
    manifests = document.get("manifest")
    found: dict[str, Tag] = {}
    doubtful: set[str] = set()
    for digest, entry in manifests.items() if isinstance(manifests, dict) else ():
        for tag in _tags(digest, entry):
            if tag.name in found:
                doubtful.add(tag.name)

            found[tag.name] = tag

    return {name: tag for name, tag in found.items() if name not in doubtful}


def _tags(digest: str, entry: object) -> list[Tag]:
    names = entry.get("tag") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(names, list):
        return []

    try:
        parsed = Digest.parse(digest)
    except InvalidName:
        return []

    is_index = is_index_type(entry.get("mediaType"))
    size = None if is_index else _size(entry.get("imageSizeBytes"))
    return [Tag(name, parsed, size=size, is_index=is_index) for name in names if isinstance(name, str)]


def _size(value: object) -> int | None:
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
    return parse_size(int(str(value))) if is_number else None
