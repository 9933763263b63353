"""Signed images of a test server, and the file with a policy for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from signing import annotations_of, bundle, payload_of, sign, statement

from quaymirror.oci import Digest
from quaymirror.testing import Blob, Repository, SourceManifest, digest_of, make_artifact

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def sig_image(*signatures: tuple[bytes, dict[str, str]]) -> SourceManifest:
    """Return the image of a `.sig` tag: a layer per payload, with the annotations of its signature."""
    config, payloads = Blob.of(b"{}"), [Blob.of(payload) for payload, _ in signatures]
    layers = [
        {"mediaType": SIMPLE, "digest": blob.digest, "size": blob.size, "annotations": annotations}
        for blob, (_, annotations) in zip(payloads, signatures, strict=True)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest,
            "size": config.size,
        },
        "layers": layers,
    }
    raw = json.dumps(document).encode()
    return SourceManifest(raw, MANIFEST, digest_of(raw), (config, *payloads))


def sign_with_tag(repository: Repository, image: SourceManifest, key: str, name: str) -> None:
    """Push a `.sig` tag as cosign 2 does: `name` is that of the repository, with its registry."""
    payload = payload_of(Digest.parse(image.digest), name)
    signed = sig_image((payload, annotations_of(key, sign(key, payload), payload)))
    repository.push(f"{image.digest.replace(':', '-')}.sig", signed)


def sign_with_bundle(repository: Repository, image: SourceManifest, key: str) -> None:
    """Push a bundle as a referrer, as cosign 3 does."""
    made = bundle(key, statement(Digest.parse(image.digest)))
    attach(repository, image, json.dumps(made).encode())


def attach(repository: Repository, image: SourceManifest, content: bytes) -> None:
    """Push a bundle as a referrer."""
    repository.attach(make_artifact(BUNDLE, content, subject=image))


def policy_file(path: Path, *requirements: dict[str, Any]) -> Path:
    """Write a policy with this default."""
    path.write_text(json.dumps({"default": list(requirements)}))
    return path
