"""Media types of manifests (OCI image-spec, media-types.md, and Docker's image manifest v2 schema 2)."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
UNKNOWN = "application/octet-stream"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
DOCKER = frozenset({DOCKER_LIST, DOCKER_MANIFEST})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

# All types: if one is missing, Quay *converts* such manifests to other bytes with another digest, and answers 200.
# Schema 1 is included to recognize and report such a tag.
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1_SIGNED, DOCKER_SCHEMA1))


def essence(header: str | None) -> str:
    """Return the media type of a Content-Type header in lower case without parameters; '' if there is none."""
    return (header or "").partition(";")[0].strip().lower()
