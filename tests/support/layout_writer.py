"""OCI image layouts as other tools write them: any entries, nested indexes, damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from quaymirror.testing import SourceManifest

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class LayoutWriter:
    """A layout at `root`; `changes` counts its versions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes = 0
        self.entries: list[dict[str, Any]] = []
        root.mkdir(parents=True, exist_ok=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.write()

    def add(self, name: str | None, image: SourceManifest, **annotations: str) -> dict[str, Any]:
        """Add an image, in place of another one with this name, and return its entry."""
        self.entries = [entry for entry in self.entries if name is None or self._name(entry) != name]
        entry = self.store(image, name, **annotations)
        self.entries.append(entry)
        self.write()
        return entry

    def store(self, image: SourceManifest, name: str | None = None, **annotations: str) -> dict[str, Any]:
        """Store the content of an image, and return an entry for it."""
        for node in image.walk():
            self.put(node.raw)

        for blob in image.all_blobs().values():
            self.put(blob.data)

        return self.entry(image.raw, image.media_type, name, **annotations)

    def entry(self, content: bytes, media_type: str, name: str | None = None, **annotations: str) -> dict[str, Any]:
        """Return an entry for stored content. `full` is the annotation of containerd."""
        named = {REF_NAME: name} if name is not None else {}
        named |= {CONTAINERD_NAME if key == "full" else key: value for key, value in annotations.items()}
        entry = {"mediaType": media_type, "digest": self.put(content), "size": len(content)}
        return entry | ({"annotations": named} if named else {})

    def put(self, content: bytes) -> str:
        """Store a blob, and return its digest."""
        path = self.path(digest := f"sha256:{hashlib.sha256(content).hexdigest()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(content)

        return digest

    def path(self, digest: str) -> Path:
        """Return the path of a blob."""
        algorithm, _, encoded = digest.partition(":")
        return self.root / "blobs" / algorithm / encoded

    def write(self) -> None:
        """Write the index."""
        self.changes += 1
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))

    def _name(self, entry: dict[str, Any]) -> str | None:
        name: str | None = entry.get("annotations", {}).get(REF_NAME)
        return name
