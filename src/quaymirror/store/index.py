"""`index.json` and `oci-layout`, the two documents of a layout (OCI image-spec, image-layout.md): pure text work."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..oci import Descriptor, mediatype
from .records import ImageRecord

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

OCI_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}\n'


class Unreadable(ValueError):
    """The text is no such document."""


def check_oci_layout(text: bytes) -> None:
    """Make sure that `text`, the content of an `oci-layout` file, is of the version we write.

    :raises Unreadable: when it is another version, or something else.
    """
    version = _object(text).get("imageLayoutVersion")
    if version != "1.0.0":
        raise Unreadable(f"image layout version {version!r}, and only '1.0.0' is known")


def parse_index(text: bytes) -> dict[str, Any]:
    """Return an index document as it is, every field that we don't know included.

    :raises Unreadable: when it isn't one.
    """
    document = _object(text)
    manifests = document.get("manifests")
    if not isinstance(manifests, list) or not all(isinstance(entry, dict) for entry in manifests):
        raise Unreadable("has no list of manifests")

    return document


def name_of(entry: Mapping[str, Any]) -> str | None:
    """Return what an entry of an index is called, None if it has no name."""
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def project(
    document: Mapping[str, Any] | None, records: Iterable[ImageRecord], *, without: Collection[str] = ()
) -> bytes:
    """Return the index that names `records`, but for those `without` a name, keeping what others wrote into `document`.

    Ours are sorted by name, so that the same images give the same bytes; an image that is there again replaces its
    entry. Entries without a name, or with one that isn't ours, stay as they are.
    """
    ours = {record.name: _entry(record) for record in records if record.name not in without}
    known = ours.keys() | set(without)
    others = [entry for entry in (document or {}).get("manifests", []) if name_of(entry) not in known]
    manifests = others + [ours[name] for name in sorted(ours)]
    index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, **(document or {})}
    return _text(index | {"schemaVersion": 2, "manifests": manifests}) + b"\n"


def _text(index: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(index, indent=1, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        # What others wrote is kept although it is half a character, or deeper than what can be indented.
        return json.dumps(index).encode()


def _entry(record: ImageRecord) -> dict[str, Any]:
    root: Descriptor = record.root
    return {
        "mediaType": root.media_type,
        "digest": str(root.digest),
        "size": root.size,
        "annotations": {REF_NAME: record.name, CONTAINERD_NAME: f"{record.registry}/{record.name}"},
    }


def _object(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Unreadable("is not JSON") from None

    if not isinstance(document, dict):
        raise Unreadable("is not an object")

    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are JavaScript: what we would write again no other tool could read
