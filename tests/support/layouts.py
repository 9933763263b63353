"""An independent look at a layout: knows the OCI image-spec and nothing of quaymirror."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def names(root: Path) -> dict[str, str]:
    """Return the images of the layout at `root`: reference name to digest; each name once."""
    index = json.loads((root / "index.json").read_bytes())
    entries = [
        (entry["annotations"]["org.opencontainers.image.ref.name"], entry["digest"]) for entry in index["manifests"]
    ]
    assert len(dict(entries)) == len(entries), "a name stands in the index twice"
    return dict(entries)


def blob(root: Path, digest: str) -> bytes:
    """Return a blob, after looking that it is the right one."""
    algorithm, _, encoded = digest.partition(":")
    content = (root / "blobs" / algorithm / encoded).read_bytes()
    assert hashlib.new(algorithm, content).hexdigest() == encoded, f"{digest} has other bytes"
    return content


def check(root: Path) -> set[str]:
    """Make sure that the layout is whole, and return the digests of everything its index leads to."""
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((root / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    seen: set[str] = set()
    for entry in index["manifests"]:
        _walk(root, entry, seen)

    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            blob(root, f"{path.parent.name}:{path.name}")

    return seen


def _walk(root: Path, descriptor: dict[str, Any], seen: set[str]) -> None:
    content = blob(root, descriptor["digest"])
    assert len(content) == descriptor["size"], f"{descriptor['digest']} has another size"
    seen.add(descriptor["digest"])
    if "manifest" in descriptor["mediaType"] or "image.index" in descriptor["mediaType"]:
        document = json.loads(content)
        children = document.get("manifests") or [document["config"], *document["layers"]]
        for child in children:
            _walk(root, child, seen)
