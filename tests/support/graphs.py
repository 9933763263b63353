"""Manifests and indexes made of descriptors."""

from __future__ import annotations

import json
from typing import Any

from quaymirror.oci import Descriptor, Digest, Index, Manifest, manifest, mediatype

CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)


def described(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def json_of(node: Descriptor) -> dict[str, Any]:
    return {"mediaType": node.media_type, "digest": str(node.digest), "size": node.size}


def image_of(config: Descriptor, *layers: Descriptor, subject: Descriptor | None = None) -> Manifest:
    """Return an image, or a referrer of `subject`."""
    document = {"config": json_of(config), "layers": [json_of(layer) for layer in layers]}
    refers = {} if subject is None else {"subject": json_of(subject)}
    raw = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, **document, **refers}).encode()
    parsed = manifest.parse_stored(raw, Digest.of(raw))
    assert isinstance(parsed, Manifest)
    return parsed


def index_of(*children: Manifest | Index) -> Index:
    document = {"manifests": [json_of(child.descriptor) for child in children]}
    raw = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, **document}).encode()
    parsed = manifest.parse_stored(raw, Digest.of(raw))
    assert isinstance(parsed, Index)
    return parsed
