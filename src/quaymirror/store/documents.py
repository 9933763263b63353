"""`index.json` and `oci-layout`, the two documents of a layout (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..oci import Descriptor, mediatype
from ..untrusted import InvalidDocument, parse_object
from .records import ImageRecord, ReferrerList

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
# The digest whose referrers an entry lists: such entries are written again each time.
SUBJECT = "dev.quaymirror.subject"

# The index of more than a million images.
_MAX_BYTES = 1024 * 1024 * 1024

_quoted = json.JSONEncoder(ensure_ascii=False).encode

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
    others: list[str] = []
    for entry in (document or {}).get("manifests", []):
        name = name_of(entry)
        if name in ours or (name in left_out and _is_ours(entry)):
            continue

        if shared and name is not None and (is_list(entry) or _is_ours(entry)):
            ours[name] = _text(entry, depth=2)
        elif not is_list(entry):
            others.append(_text(entry, depth=2))

    entries = ",".join(f"\n  {text}" for text in (*others, *(ours[name] for name in sorted(ours))))
    index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, **(document or {})} | {"schemaVersion": 2}
    fields = {key: _text(value, depth=1) for key, value in (index | {"manifests": []}).items()}
    if entries:
        fields["manifests"] = f"[{entries}\n ]"

    lines = ",".join(f"\n {_text(key, depth=1)}: {text}" for key, text in fields.items())
    return f"{{{lines}\n}}\n".encode()


def _text(value: object, *, depth: int) -> str:
    """Return the JSON of `value`, which other tools may have written, indented if possible."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        text.encode()
    except (UnicodeEncodeError, RecursionError):
        # It is kept even if it has half a surrogate pair, or is nested too deep to indent.
        return json.dumps(value)

    return text.replace("\n", "\n" + " " * depth)


def _is_ours(entry: Mapping[str, Any]) -> bool:
    registry, slash, rest = str(entry["annotations"].get(CONTAINERD_NAME)).partition("/")
    return bool(registry and slash) and rest == name_of(entry)


def is_list(entry: Mapping[str, Any]) -> bool:
    """Return True if an entry of an index is the list of the referrers of an image, which a mirror wrote."""
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and SUBJECT in annotations


def _listing(each: ReferrerList) -> str:
    return _rendered(each.descriptor, {REF_NAME: each.tag, SUBJECT: str(each.subject)})


def _entry(record: ImageRecord) -> str:
    return _rendered(record.root, {REF_NAME: record.name, CONTAINERD_NAME: f"{record.registry}/{record.name}"})


def _rendered(node: Descriptor, annotations: Mapping[str, str]) -> str:
    """Return an entry as `json.dumps` would indent it, which takes four times as long: it is not in C then."""
    lines = ",\n".join(f"    {_quoted(key)}: {_quoted(value)}" for key, value in annotations.items())
    return (
        f'{{\n   "mediaType": {_quoted(node.media_type)},\n   "digest": "{node.digest}",\n   "size": {node.size},\n'
        f'   "annotations": {{\n{lines}\n   }}\n  }}'
    )


def _object(text: bytes) -> dict[str, Any]:
    return parse_object(text, limit=_MAX_BYTES, unique=frozenset())
