"""What an index leads to: the walk that verifying, pruning and repairing have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InvalidName, MirrorDamaged, StoreError, UnsupportedContent
from ..oci import Descriptor, Digest, Index, manifest, mediatype
from ..oci.manifest import MAX_MANIFEST_BYTES
from . import fsops, index
from .blobs import BlobStore

_MANIFESTS = mediatype.INDEXES | mediatype.MANIFESTS


def is_manifest(node: Descriptor) -> bool:
    """Tell whether `node` is a manifest or an index, and not the content of one."""
    return node.media_type in _MANIFESTS


def entries(root: Path) -> list[tuple[str, Descriptor]]:
    """Return the names (for want of one the digest) and descriptors in the index of the layout at `root`.

    :raises MirrorDamaged: when there is no index, or none that can be understood.
    :raises StoreError: when it can't be read.
    """
    path = root / "index.json"
    text = fsops.read_file(path)
    if text is None:
        raise MirrorDamaged(f"{path} is missing: --repair-state writes it anew")

    try:
        document = index.parse_index(text)
        return [
            (index.name_of(entry) or str(entry.get("digest")), Descriptor.parse(entry, where="index.json"))
            for entry in document["manifests"]
        ]
    except (index.Unreadable, UnsupportedContent, InvalidName) as error:
        raise MirrorDamaged(f"{path}: {error}; --repair-state writes it anew") from None


def below(
    blobs: BlobStore, node: Descriptor, unreadable: Callable[[Descriptor, str | None], None]
) -> Iterator[Descriptor]:
    """Iterate over `node` and everything below it.

    A child of an index that is not there is left out if others are: it is a mirror for some platforms only. A manifest
    that ends the walk is given to `unreadable`, with what is wrong with it, None if its bytes are not here or not the
    right ones.
    """
    yield node
    if not is_manifest(node):
        return  # an index may list anything (image-spec, image-layout.md)

    try:
        content = blobs.read(node.digest, MAX_MANIFEST_BYTES)
    except (StoreError, MirrorDamaged):
        content = None

    if content is None:
        return unreadable(node, None)

    try:
        parsed = manifest.parse_stored(content, node.digest)
    except (UnsupportedContent, InvalidName) as error:
        return unreadable(node, error.message)

    if not isinstance(parsed, Index):
        yield from parsed.blobs
        return

    here = [child for child in parsed.manifests if blobs.path(child.digest).exists()]
    for child in here or parsed.manifests:
        yield from below(blobs, child, unreadable)


def stored(root: Path) -> Iterator[tuple[Path, Digest | None]]:
    """Iterate over everything under `blobs/`, each with the digest that its name is, None if it isn't one.

    :raises StoreError: when a directory can't be read.
    """
    with fsops.local_errors("read", root / "blobs"):
        for directory in sorted(path for path in (root / "blobs").iterdir() if path.is_dir()):
            for path in sorted(directory.iterdir()):
                try:
                    yield path, Digest(directory.name, path.name)
                except InvalidName:
                    yield path, None
