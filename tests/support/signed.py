"""Organizations with everything that can belong to an image: digest tags, bundles, SBOMs, signed SBOMs, attestations.

The generator says which manifests belong to which, so that a mirror can be compared with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from quaymirror.testing import (
    Registry,
    Repository,
    SourceManifest,
    make_artifact,
    make_attestation,
    make_image,
    make_index,
    make_layer,
)

TAG = "2025.1-debian"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
NOTARY = "application/vnd.cncf.notary.signature"
SPDX = "application/spdx+json"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"


@dataclass
class Signed:
    """A registry, and the referrers of its images.

    `listed` are (subject, digest), `tagged` (repository, tag, digest).
    """

    registry: Registry
    listed: set[tuple[str, str]] = field(default_factory=set)
    tagged: set[tuple[str, str, str]] = field(default_factory=set)
    signatures: set[tuple[str, str]] = field(default_factory=set)
    """Those of `listed` that are signatures or attestations themselves, of images."""
    images: dict[str, SourceManifest] = field(default_factory=dict)

    def attach(self, repository: Repository, referrer: SourceManifest, *, is_signature: bool = False) -> None:
        """Push a referrer by its digest."""
        repository.attach(referrer)
        pair = (referrer.document["subject"]["digest"], referrer.digest)
        self.listed.add(pair)
        if is_signature:
            self.signatures.add(pair)

    def tag(self, repository: Repository, subject: SourceManifest, end: str, content: SourceManifest) -> None:
        """Push a digest tag."""
        name = digest_tag(subject, end)
        repository.push(name, content)
        self.tagged.add((repository.full_name, name, content.digest))


def digest_tag(subject: SourceManifest, end: str = "") -> str:
    """Return the tag that names a digest."""
    return subject.digest.replace(":", "-") + end


def signature(subject: SourceManifest, seed: str = "") -> SourceManifest:
    """Return the manifest of a `.sig` tag: its layer is the payload."""
    payload = {"critical": {"image": {"docker-manifest-digest": subject.digest}, "type": seed}}
    return make_artifact(SIMPLE, json.dumps(payload).encode())


def fallback_list(*referrers: SourceManifest) -> SourceManifest:
    """Return the index of a fallback tag."""
    return make_index([(each, None) for each in referrers])


def small(seed: str) -> SourceManifest:
    """Return an image of its own."""
    return make_image([make_layer(f"{seed}/{number}", 1500) for number in range(2)])


def signed_organization(count: int, registry: Registry | None = None) -> Signed:
    """Return an organization `kolla` of `count` images, each with the next few of all kinds of referrers."""
    found = Signed(registry or Registry())
    kolla = found.registry.organization("kolla")
    for number in range(count):
        repository = kolla.repository(f"image-{number:03}")
        image = small(f"signed {number}")
        if number % 5 == 4:
            other = small(f"signed {number} arm64")
            pairs = [(image, "linux/amd64"), (other, "linux/arm64"), (make_attestation(image), "unknown/unknown")]
            root = make_index(pairs)
            found.attach(repository, make_artifact(BUNDLE, b"child %d" % number, subject=other), is_signature=True)
        else:
            root = image

        repository.push(TAG, root)
        found.images[f"{repository.full_name}:{TAG}"] = root
        found.tag(repository, root, ".sig", signature(root))
        if number % 2:
            found.tag(
                repository, root, ".att", make_artifact("application/vnd.dsse.envelope.v1+json", b"att %d" % number)
            )
            found.attach(repository, make_artifact(NOTARY, b"notation %d" % number, subject=root), is_signature=True)

        if number % 3 == 0:
            bundle = make_artifact(BUNDLE, b"bundle %d" % number, subject=root, annotations={"made": "by a test"})
            found.attach(repository, bundle, is_signature=True)

        if number % 4 == 0:
            sbom = make_artifact(SPDX, b"sbom %d" % number, subject=root)
            found.attach(repository, sbom)
            found.attach(repository, make_artifact(BUNDLE, b"of the sbom %d" % number, subject=sbom))

    return found
