"""Several mirrors under one address: which of them has a repository, and the content of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import ConfigError
from ..oci import Digest
from .content import ContentReader
from .mirror import Found, ServedMirror
from .published import Image

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of one mirror: `name` is its name there."""

    mirror: ServedMirror
    name: str
    content: ContentReader


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository under its full name: the places that have it, best first.

    `namespace` is the host that a client named with `?ns=`, if images from there were found.
    """

    name: str
    places: tuple[Place, ...]
    namespace: str = ""

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        return sorted({tag for place in self.places for tag in place.mirror.published.tags.get(place.name, {})})

    def image(self, tag: str) -> tuple[Place, Image] | None:
        """Return the image with a tag, None if there is none."""
        for place in self.places:
            image = place.mirror.published.tags.get(place.name, {}).get(tag)
            if image is not None:
                return place, image

        return None


class ServedRegistry:
    """Mirrors whose repositories are served together. Methods that are not async don't block."""

    def __init__(self, mirrors: Sequence[ServedMirror]) -> None:
        self.mirrors: tuple[ServedMirror, ...] = tuple(mirrors)
        self._contents = {id(mirror): ContentReader(mirror.storage) for mirror in mirrors}
        # One thread per mirror: its methods are not for several, and a hanging file system must not stop the others.
        self._limits = {id(mirror): anyio.CapacityLimiter(1) for mirror in mirrors}

    @property
    def problem(self) -> str:
        """The reason why a mirror can't be read now, empty if all can."""
        return next((mirror.problem for mirror in self.mirrors if mirror.problem), "")

    def repository(self, name: str, namespace: str = "") -> Repository | None:
        """Return the repository called `name`, with images from the host `namespace` if there are any."""
        preferred = [
            self._place(mirror, name)
            for mirror in self.mirrors
            if namespace and mirror.has(name) and mirror.has_from(name, namespace)
        ]
        owned = ((mirror, mirror.own_name(name)) for mirror in self.mirrors)
        named = [self._place(mirror, own) for mirror, own in owned if own is not None and mirror.has(own)]
        places = tuple(dict.fromkeys((*preferred, *named)))
        return Repository(name, places, namespace if preferred else "") if places else None

    async def repository_of_day(self, name: str, tag: str) -> Repository | None:
        """Return a repository that has no images any more, if `tag` (`TAG.at.YYYY-MM-DD`) means one that it had."""
        for mirror in self.mirrors:
            own = mirror.own_name(name)
            if own is not None and ".at." in tag:
                await self.in_thread(mirror, partial(mirror.image_of_day, own, tag))

        return self.repository(name)

    def names(self) -> list[str]:
        """Return the names of all repositories with images, sorted."""
        names = {mirror.full_name(name) for mirror in self.mirrors for name in mirror.published.repositories}
        return sorted(names - {""})

    def images(self) -> Iterator[tuple[Place, Image]]:
        """Iterate over all images that clients can pull."""
        for mirror in self.mirrors:
            for name in sorted(mirror.published.repositories):
                if mirror.full_name(name):
                    place = self._place(mirror, name)
                    yield from ((place, image) for image in mirror.published.images(name))

    async def find(self, repository: Repository, digest: Digest) -> tuple[Place, Found] | None:
        """Return content that an image of the repository needs, None if it needs no such content."""
        for place in repository.places:
            found = place.mirror.find_now(place.name, digest)
            if found is not None:
                return place, found

        for place in repository.places:
            found = await self.in_thread(place.mirror, partial(place.mirror.find, place.name, digest))
            if found is not None:
                return place, found

        return None

    async def image(self, repository: Repository, tag: str) -> tuple[Place, Image] | None:
        """Return the image with a tag, None if there is none. `TAG.at.YYYY-MM-DD` is TAG at the end of that day."""
        named = repository.image(tag)
        if named is not None or ".at." not in tag:
            return named

        for place in repository.places:
            image = await self.in_thread(place.mirror, partial(place.mirror.image_of_day, place.name, tag))
            if image is not None:
                return place, image

        return None

    async def referrers(self, repository: Repository, subject: Digest) -> list[Mapping[str, Any]]:
        """Return the descriptors of the referrers of `subject`, sorted by digest."""
        found: dict[str, Mapping[str, Any]] = {}
        for place in repository.places:
            entries = await self.in_thread(place.mirror, partial(place.mirror.referrers, place.name, subject))
            found |= {str(entry["digest"]): entry for entry in entries}

        return [found[digest] for digest in sorted(found)]

    async def in_thread(self, mirror: ServedMirror, function: Callable[[], T]) -> T:
        """Return the result of `function`, which blocks, in the thread of `mirror`."""
        return await anyio.to_thread.run_sync(function, limiter=self._limits[id(mirror)])

    def _place(self, mirror: ServedMirror, name: str) -> Place:
        return Place(mirror, name, self._contents[id(mirror)])


def check_names(mirrors: Sequence[ServedMirror]) -> None:
    """Check that no name means two images, and that every mirror has names to serve.

    :raises ConfigError: otherwise.
    """
    seen: dict[str, tuple[ServedMirror, Image]] = {}
    for mirror in mirrors:
        if not mirror.prefix and "" in mirror.published.repositories:
            tag = mirror.published.images("")[0].tag
            raise ConfigError(
                f"{mirror.storage} has images without a repository, such as {tag!r}: serve it as NAME={mirror.storage}"
            )

        for name in mirror.published.repositories:
            for image in mirror.published.tags.get(name, {}).values():
                full = f"{mirror.full_name(name)}:{image.tag}"
                other, known = seen.setdefault(full, (mirror, image))
                if known.root.digest != image.root.digest:
                    raise ConfigError(
                        f"{full} is another image in {mirror.storage} than in {other.storage}: "
                        f"serve one of them under a prefix, PREFIX={mirror.storage}"
                    )
