"""Organizations that tests mirror."""

from __future__ import annotations

from functools import lru_cache

from quaymirror.testing import Registry, SourceManifest, kolla_like, make_image, make_layer

TAG = "2025.1-debian"


def kolla(count: int = 12, *, layer_size: int = 4096) -> tuple[Registry, dict[str, SourceManifest]]:
    """Return a registry with an organization `kolla` of `count` images that share layers, one of them multi-arch."""
    images = kolla_like(count, layer_size=layer_size)
    registry = Registry()
    organization = registry.organization("kolla")
    for name, image in images.items():
        organization.repository(name).push(TAG, image)

    return registry, images


def unique_bytes(images: dict[str, SourceManifest]) -> int:
    """Return how many bytes the distinct blobs of `images` have."""
    blobs = {digest: blob for image in images.values() for digest, blob in image.all_blobs().items()}
    return sum(len(blob.data) for blob in blobs.values())


@lru_cache(maxsize=64)
def small_image(seed: str, *layers: int) -> SourceManifest:
    """Return an image of its own with layers of these sizes."""
    return make_image([make_layer(f"{seed}/{number}", size) for number, size in enumerate(layers or (2048,))])
