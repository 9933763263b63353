"""`index.json` and `oci-layout`, the two documents of a layout (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..oci import mediatype
from ..untrusted import InvalidDocument, parse_object
from .records import ImageRecord, ReferrerList

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
# The digest whose referrers an entry lists: such entries are written again each time.
SUBJECT = "dev.quaymirror.subject"

# The index of more than a million images.
_MAX_BYTES = 1024 * 1024 * 1024

OCI_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}\n'


def check_oci_layout(text: bytes) -> None:
    """Check that `text`, the content of `oci-layout`, has the version that this program writes.

    :raises InvalidDocument: if it has another version, or is something else.
    """
    version = _object(text).get("imageLayoutVersion")
    if version != "1.0.0":
        raise InvalidDocument(f"image layout version {version!r} is not supported, only '1.0.0' is")


def parse_index(text: bytes) -> dict[str, Any]:
    """Return an index document with all of its fields, known or not.

    :raises InvalidDocument: if `text` is not an index.
    """
    document = _object(text)
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or not all(isinstance(entry, dict) for entry in manifests):
        raise InvalidDocument("has no list of manifests")

    return document


def name_of(entry: Mapping[str, Any]) -> str | None:
    """Return the name of an entry of an index, None if it has none."""
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def project(
    document: Mapping[str, Any] | None,
    records: Iterable[ImageRecord],
    lists: Iterable[ReferrerList] = (),
    *,
    without: Collection[str] = (),
    shared: bool = False,
) -> bytes:
    """Return the index of `records` and of `lists` of referrers, with the entries of other tools in `document`.

    Entries of `records` are sorted by name, so that the same images give the same bytes. Entries that a mirror wrote
    for the names in `without` are left out. All others stay as they are: those without a name, or with the name of an
    image that was not mirrored. If the mirror is `shared`, other entries that mirrors wrote stay, too, in their place.
    """
    ours = {record.name: _entry(record) for record in records} | {each.tag: _listing(each) for each in lists}
    left_out = set(without) - ours.keys()
    others: list[dict[str, Any]] = []
    for entry in (document or {}).get("manifests", []):
        name = name_of(entry)
        if name in ours or (name in left_out and _is_ours(entry)):
            continue

        if shared and name is not None and (is_list(entry) or _is_ours(entry)):
            ours[name] = entry
        elif not is_list(entry):
            others.append(entry)

    manifests = others + [ours[name] for name in sorted(ours)]
    index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, **(document or {})}
    return _text(index | {"schemaVersion": 2, "manifests": manifests}) + b"\n"


def _text(index: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(index, indent=1, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        # Entries of other tools are kept even if they have half a surrogate pair, or are nested too deep to indent.
        return json.dumps(index).encode()


def _is_ours(entry: Mapping[str, Any]) -> bool:
    registry, slash, rest = str(entry["annotations"].get(CONTAINERD_NAME)).partition("/")
    return bool(registry and slash) and rest == name_of(entry)


def is_list(entry: Mapping[str, Any]) -> bool:
    """Return True if an entry of an index is the list of the referrers of an image, which a mirror wrote."""
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and SUBJECT in annotations


def _listing(each: ReferrerList) -> dict[str, Any]:
    return {
        "mediaType": each.descriptor.media_type,
        "digest": str(each.descriptor.digest),
        "size": each.descriptor.size,
        "annotations": {REF_NAME: each.tag, SUBJECT: str(each.subject)},
    }


def _entry(record: ImageRecord) -> dict[str, Any]:
    return {
        "mediaType": record.root.media_type,
        "digest": str(record.root.digest),
        "size": record.root.size,
        "annotations": {REF_NAME: record.name, CONTAINERD_NAME: f"{record.registry}/{record.name}"},
    }


def _object(text: bytes) -> dict[str, Any]:
    return parse_object(text, limit=_MAX_BYTES, unique=frozenset())
