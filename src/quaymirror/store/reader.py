"""Reading of a layout: its images, their content, and everything that they need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from ..errors import InvalidName, MirrorDamaged, StoreError, UnsupportedContent, is_lack
from ..oci import Descriptor, Digest, Index, Manifest, manifest
from ..oci.manifest import MAX_MANIFEST_BYTES
from ..untrusted import InvalidDocument
from . import documents
from .storage import BLOBS, INDEX, ObjectInfo, Storage, blob_key

_READ_BYTES = 1024 * 1024

Unreadable = Callable[[Descriptor, str | None], None]
"""Called with a manifest that ends a walk, and the reason; None if its bytes are missing or wrong."""


class LayoutReader:
    """The images of a layout and their content. Methods block.

    They raise `StoreError` if the storage fails, and `MirrorDamaged` if something else is in the place of a blob.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def has(self, node: Descriptor) -> bool:
        """Return True if a blob of the right size is stored under the digest of `node`; its bytes are not read."""
        info = self._storage.info(blob_key(node.digest))
        return info is not None and info.size == node.size

    def exists(self, digest: Digest) -> bool:
        """Return True if a blob of any size is stored under `digest`."""
        return self._storage.info(blob_key(digest)) is not None

    def verify(self, node: Descriptor) -> bool:
        """Read a blob, and return True if it is complete and right."""
        if not self.has(node):
            return False

        hasher = node.digest.hasher()
        with self.open(node.digest) as file:
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)

        return hasher.hexdigest() == node.digest.encoded

    def adopt(self, node: Descriptor) -> bool:
        """Verify a blob that another program may have stored. Return True if it is right: then it is durable, too."""
        is_right = self.verify(node)
        if is_right:
            self._storage.persist(node)

        return is_right

    def open(self, digest: Digest) -> AbstractContextManager[BinaryIO]:
        """Open the blob with `digest`, which is not verified."""
        return self._storage.open(blob_key(digest))

    def read(self, digest: Digest, limit: int = MAX_MANIFEST_BYTES) -> bytes | None:
        """Return the content with `digest`, None if it is missing, has more than `limit` bytes, or is damaged."""
        if not self.exists(digest):
            return None

        content = self._storage.read(blob_key(digest), limit + 1)
        return content if content is not None and len(content) <= limit and digest.matches(content) else None

    def manifest(self, node: Descriptor) -> Manifest | Index | None:
        """Return the parsed manifest or index of `node`, None if its bytes are missing or wrong.

        :raises UnsupportedContent: if it can't be parsed.
        """
        content = self.read(node.digest)
        return None if content is None else manifest.parse_stored(content, node.digest)

    def index_entries(self) -> list[tuple[str, Descriptor]]:
        """Return the names (digests of entries without a name) and descriptors of the index.

        :raises MirrorDamaged: if the index is missing or can't be parsed.
        """
        text = self._storage.read(INDEX)
        if text is None:
            raise MirrorDamaged(f"{self._storage}/{INDEX} is missing: verify --repair-state writes it again")

        try:
            return [
                (documents.name_of(entry) or str(entry.get("digest")), Descriptor.parse(entry, where=INDEX))
                for entry in documents.parse_index(text)["manifests"]
            ]
        except (InvalidDocument, UnsupportedContent, InvalidName) as error:
            raise MirrorDamaged(f"{self._storage}/{INDEX}: {error}; verify --repair-state writes it again") from None

    def resolve(self, name: str) -> Descriptor | None:
        """Return the manifest or index of the image called `name` (`kolla/nova-api:2025.1`), None if there is none."""
        return dict(self.index_entries()).get(name)

    def tags(self, repository: str) -> list[str]:
        """Return the tags of `repository`, sorted."""
        names = (name.rpartition(":") for name, _ in self.index_entries())
        return sorted(tag for found, _, tag in names if found == repository)

    def walk(self, node: Descriptor, unreadable: Unreadable) -> Iterator[Descriptor]:
        """Iterate over `node` and everything that it needs.

        Children of an index that are missing are left out if others are present: such an image was mirrored for some
        platforms only.
        """
        yield node
        if not node.is_manifest:
            return  # an index may list anything (image-spec, image-layout.md)

        try:
            parsed = self.manifest(node)
        except (UnsupportedContent, InvalidName) as error:
            return unreadable(node, error.message)
        except (StoreError, MirrorDamaged) as error:
            if is_lack(error):
                raise

            parsed = None

        if parsed is None:
            return unreadable(node, None)

        if not isinstance(parsed, Index):
            yield from parsed.blobs
            return

        present = [child for child in parsed.manifests if self._is_occupied(child.digest)]
        for child in present or parsed.manifests:
            yield from self.walk(child, unreadable)

    def list_blobs(self, *, besides: Collection[Digest] = ()) -> Iterator[tuple[ObjectInfo, Digest | None]]:
        """Iterate over all blobs with their digests, but `besides`; None for objects that are not named by one."""
        for info in self._storage.list_objects(BLOBS, wants=lambda key: _blob_digest(key) not in besides):
            yield info, _blob_digest(info.key)

    def _is_occupied(self, digest: Digest) -> bool:
        """Return True if anything is in the place of a blob, even if it is not one."""
        try:
            return self.exists(digest)
        except MirrorDamaged:
            return True


def _blob_digest(key: str) -> Digest | None:
    _, algorithm, encoded = key.rsplit("/", 2)
    try:
        return Digest(algorithm, encoded)
    except InvalidName:
        return None
