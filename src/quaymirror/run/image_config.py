"""The config of an image, read from its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..catalog.base import PinnedImage
from ..errors import PlatformNotFound, QuaymirrorError, UnsupportedContent
from ..oci import Descriptor, Index, Manifest, Platform
from ..oci.manifest import Node
from ..registry.puller import Puller
from ..untrusted import InvalidDocument, parse_object

MAX_CONFIG_BYTES = 32 * 1024 * 1024
DEFAULT_PLATFORM = Platform("linux", "amd64")


async def read_image(image: PinnedImage, source: Puller, wanted: Platform) -> tuple[Manifest, Mapping[str, Any]]:
    """Return the manifest and the config of `image`, of an index those for the platform `wanted`.

    :raises PlatformNotFound: if an index has no image for it.
    :raises UnsupportedContent: if the image has no readable config.
    :raises QuaymirrorError: if it can't be fetched.
    """
    reference = image.reference
    node = await source.manifest(reference.repository, image.digest)
    if isinstance(node, Index):
        child = next(iter(children_for(reference.name, node, (wanted,))))
        node = await source.manifest(reference.repository, child.digest, expected=child)

    found = as_manifest(reference.name, node)
    return found, await read_config(reference.name, found, image, source)


def children_for(name: str, index: Index, wanted: Sequence[Platform]) -> list[Descriptor]:
    """Return the first image of `index` for each platform of `wanted`; without, all that are for a platform.

    :raises PlatformNotFound: if one is missing.
    """
    real = [child for child in index.manifests if child.platform is not None and child.platform.os != "unknown"]
    if not wanted:
        return real or list(index.manifests)

    found = []
    for platform in wanted:
        child = next((each for each in real if each.platform and each.platform.matches(platform)), None)
        if child is None:
            raise PlatformNotFound(f"{name} has no image for {platform}")

        found.append(child)

    return found


def as_manifest(name: str, node: Node) -> Manifest:
    """Return `node` as the manifest of an image.

    :raises UnsupportedContent: if it is something else.
    """
    if not isinstance(node, Manifest):
        raise UnsupportedContent(f"{name} is an index of indexes")

    return node


async def read_config(name: str, node: Manifest, image: PinnedImage, source: Puller) -> Mapping[str, Any]:
    """Return the config of the manifest `node` of `image`, which messages call `name`.

    :raises UnsupportedContent: if it is no readable config.
    :raises QuaymirrorError: if it can't be fetched.
    """
    if node.config.size > MAX_CONFIG_BYTES:
        raise UnsupportedContent(f"{name} has a config of {node.config.size:,} bytes")

    content = await source.blob(image.reference.repository, node.config)
    try:
        return parse_object(content, limit=MAX_CONFIG_BYTES, nan_is_text=True)
    except InvalidDocument as error:
        raise UnsupportedContent(f"{name}: its config {error}") from None


async def platform_of(image: PinnedImage, node: Node, source: Puller) -> Platform | None:
    """Return the platform of a single-arch image whose manifest is `node`, None of an index, or if it is unknown."""
    if not isinstance(node, Manifest):
        return None

    try:
        config = await read_config(image.reference.name, node, image, source)
        names = [config.get("os"), config.get("architecture"), config.get("variant")]
        return Platform.parse("/".join(name for name in names if isinstance(name, str) and name))
    except QuaymirrorError:
        return None  # the image is mirrored: a remark is not worth an error
