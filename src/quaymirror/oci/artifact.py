"""The type and the annotations of artifacts (OCI image-spec, manifest.md)."""

from __future__ import annotations

from collections.abc import Mapping

from ..untrusted import InvalidDocument, parse_object
from . import mediatype
from .manifest import Index, Manifest


def artifact_type_of(node: Manifest | Index) -> str:
    """Return the type of an artifact: its own, or that of the config of a manifest (image-spec, manifest.md)."""
    own = _document(node).get("artifactType")
    if isinstance(own, str) and own:
        return own[:255]

    return node.config.media_type if isinstance(node, Manifest) else mediatype.OCI_INDEX


def annotations_of(node: Manifest | Index) -> Mapping[str, str]:
    """Return the annotations of a manifest."""
    found = _document(node).get("annotations")
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def _document(node: Manifest | Index) -> dict[str, object]:
    try:
        return parse_object(node.raw, limit=len(node.raw))
    except InvalidDocument:
        return {}
