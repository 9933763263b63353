"""The interfaces of a source for manifests, and for everything that is read from it."""

from __future__ import annotations

from typing import Protocol

from ..oci import Descriptor, Digest, Reference, Repository
from ..oci.manifest import Node
from .source import BlobSource


class ManifestSource(Protocol):
    """A source that manifests are fetched from."""

    async def root(self, reference: Reference) -> tuple[Node, bool]:
        """Return the manifest of a pinned reference, and whether its tag has moved."""

    async def manifest(self, repository: Repository, digest: Digest, *, expected: Descriptor | None = None) -> Node:
        """Return a manifest; `expected` is its descriptor in an index."""


class ImageSource(BlobSource, ManifestSource, Protocol):
    """A source that images are fetched from."""


class Puller(ImageSource, Protocol):
    """All that is read from a source: of a registry, or of a layout."""

    async def blob(self, repository: Repository, blob: Descriptor) -> bytes:
        """Return a small blob, such as a config, whole and verified."""

    async def referrers(self, repository: Repository, subject: Digest) -> tuple[Descriptor, ...] | None:
        """Return the descriptors of the manifests that refer to `subject`; None if the source can't list them."""
