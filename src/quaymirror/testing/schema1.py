"""Docker's schema 1 manifests, which Quay generates for clients that don't accept the stored type."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from quaymirror.testing.images import DOCKER_CONFIG, OCI_CONFIG, SourceManifest, digest_of

SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"


def to_schema1(manifest: SourceManifest, *, name: str, tag: str) -> SourceManifest | None:
    """Return *manifest* converted: other bytes, another digest. None if it isn't an image."""
    document = manifest.document
    config = document.get("config", {})
    if config.get("mediaType") not in (OCI_CONFIG, DOCKER_CONFIG):
        return None
    content = next(blob.data for blob in manifest.blobs if blob.digest == config["digest"])
    image: dict[str, Any] = json.loads(content)
    layers = document["layers"]
    converted = {
        "tag": tag,
        "name": name,
        "architecture": image.get("architecture", "amd64"),
        "schemaVersion": 1,
        "history": _history(layers, image),
        "fsLayers": [{"blobSum": layer["digest"]} for layer in reversed(layers)],
    }
    raw = json.dumps(converted, indent=3).encode()
    return SourceManifest(raw, SCHEMA1, digest_of(raw))


def _history(layers: list[dict[str, Any]], image: dict[str, Any]) -> list[dict[str, str]]:
    """Return one entry per layer, newest first; an id covers the layer and its parents."""
    entries: list[dict[str, Any]] = []
    for layer in layers:
        parent = entries[-1]["id"] if entries else None
        entry: dict[str, Any] = {"id": hashlib.sha256(f"{parent}{layer['digest']}".encode()).hexdigest()}
        if parent:
            entry["parent"] = parent
        entries.append(entry | {"created": image.get("created"), "Size": layer["size"]})
    if entries:
        entries[-1] = {key: image.get(key) for key in ("architecture", "os", "config")} | entries[-1]
    return [{"v1Compatibility": json.dumps(entry)} for entry in reversed(entries)]
