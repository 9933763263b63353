"""Numbers about everything that is served: sizes of repositories, their last changes, and shared content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import anyio

from ..errors import MirrorDamaged, StoreError
from ..oci import Digest
from ..store.storage import blob_key
from .published import Image, Published
from .registry import Place, ServedRegistry


@dataclass(frozen=True, slots=True)
class ImageNumbers:
    """An image that is served: its full name, its size in bytes, and when it was stored (POSIX time)."""

    repository: str
    tag: str
    digest: str
    size: int
    changed: float
    platforms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name under which it is pulled."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class RepositoryNumbers:
    """A repository: its images, and the size in bytes of everything they need, shared content counted once."""

    name: str
    images: tuple[ImageNumbers, ...]
    size: int

    @property
    def changed(self) -> float:
        """The time when its last image was stored (POSIX time)."""
        return max((image.changed for image in self.images), default=0.0)


@dataclass(frozen=True, slots=True)
class Overview:
    """All repositories by name, the number of images that need each blob, and the size of all content."""

    repositories: Mapping[str, RepositoryNumbers]
    uses: Mapping[Digest, int]
    size: int

    @property
    def image_count(self) -> int:
        """The number of all images."""
        return sum(len(repository.images) for repository in self.repositories.values())


class Overviews:
    """The overview of the images that are published now. It is made again when these change."""

    def __init__(self, registry: ServedRegistry) -> None:
        self._registry = registry
        self._lock = anyio.Lock()
        self._of: tuple[Published, ...] = ()
        self._overview = Overview({}, {}, 0)

    async def current(self) -> Overview:
        """Return the overview; the first time it reads all manifests."""
        async with self._lock:
            published = tuple(mirror.published for mirror in self._registry.mirrors)
            if published != self._of or not self._of:
                self._overview = await self._make()
                self._of = published

            return self._overview

    async def _make(self) -> Overview:
        uses: Counter[Digest] = Counter()
        sizes: dict[Digest, int] = {}
        by_name: dict[str, list[tuple[ImageNumbers, frozenset[Digest]]]] = {}
        for place, image in list(self._registry.images()):
            read = partial(_read, place, image)
            numbers, content = await self._registry.in_thread(place.mirror, read)
            uses.update(content.keys())
            sizes |= content
            by_name.setdefault(numbers.repository, []).append((numbers, frozenset(content)))

        repositories = {}
        for name in sorted(by_name):
            images = tuple(sorted((one for one, _ in by_name[name]), key=lambda image: (image.tag, image.digest)))
            needed = frozenset().union(*(digests for _, digests in by_name[name]))
            repositories[name] = RepositoryNumbers(name, images, sum(sizes[digest] for digest in needed))

        return Overview(repositories, uses, sum(sizes.values()))


def _read(place: Place, image: Image) -> tuple[ImageNumbers, dict[Digest, int]]:
    nodes = place.mirror.contents(image.root).nodes
    content = {digest: node.size for digest, node in nodes.items()}
    platforms = {str(node.platform) for node in nodes.values() if node.platform and node.platform.os != "unknown"}
    try:
        info = place.mirror.storage.info(blob_key(image.root.digest))
    except (StoreError, MirrorDamaged):
        info = None

    name = place.mirror.full_name(image.repository)
    changed = info.modified if info is not None else 0.0
    size, digest = sum(content.values()), str(image.root.digest)
    shown = tuple(sorted(platforms)) or place.mirror.platforms(image.root)
    return ImageNumbers(name, image.tag, digest, size, changed, shown), content
