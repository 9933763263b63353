"""The images that the index of a layout publishes at one moment, by the names under which clients pull them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..oci import Descriptor, Digest
from ..oci.reference import is_repository_name, is_tag
from ..store.documents import CONTAINERD_NAME

# The tag under which clients look for the referrers of an image at registries without the API.
FALLBACK_TAG = re.compile(r"sha(256|512)-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Image:
    """A published image; `tag` is empty if it has none. `registry` is where it came from, empty if that is unknown."""

    repository: str
    tag: str
    root: Descriptor
    registry: str = ""

    @property
    def name(self) -> str:
        """The name without registry: `kolla/nova-api:2025.1`, `kolla/nova-api@sha256:…`."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.root.digest}"


@dataclass(frozen=True, slots=True)
class Published:
    """The images of one index. `loose` entries have no repository: referrers, and lists of them."""

    tags: Mapping[str, Mapping[str, Image]] = field(default_factory=lambda: MappingProxyType({}))
    untagged: Mapping[str, tuple[Image, ...]] = field(default_factory=lambda: MappingProxyType({}))
    loose: tuple[Descriptor, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Descriptor]]) -> Published:
        """Return the images of `entries` of an index, with their names; the last one of a name counts."""
        tags: dict[str, dict[str, Image]] = {}
        untagged: dict[str, list[Image]] = {}
        loose: list[Descriptor] = []
        for name, root in entries:
            image = image_of(name, root)
            if image is None:
                loose.append(root)
            elif image.tag:
                tags.setdefault(image.repository, {})[image.tag] = image
            else:
                untagged.setdefault(image.repository, []).append(image)

        return cls(tags, {name: tuple(images) for name, images in untagged.items()}, tuple(loose))

    @property
    def repositories(self) -> set[str]:
        """The names of all repositories."""
        return {*self.tags, *self.untagged}

    def images(self, repository: str) -> list[Image]:
        """Return the images of a repository, those with tags first, sorted by tag."""
        tags = self.tags.get(repository, {})
        return [*(tags[tag] for tag in sorted(tags)), *self.untagged.get(repository, ())]

    def roots(self) -> dict[str, dict[Digest, Descriptor]]:
        """Return the distinct roots of each repository; loose entries are under the empty name."""
        found = {name: {image.root.digest: image.root for image in self.images(name)} for name in self.repositories}
        return found | {"": {root.digest: root for root in self.loose}} if self.loose else found


def image_of(name: str, root: Descriptor) -> Image | None:
    """Return the image that an entry of an index is, None if its name has no repository.

    A name that is a tag alone, as other tools write it, has the empty repository: such a mirror needs a prefix.
    """
    if name == str(root.digest) or FALLBACK_TAG.match(name):
        return None

    repository, at, digest = name.partition("@")
    tag = ""
    if not at:
        repository, _, tag = name.rpartition(":")
        if not is_tag(tag):
            return None
    elif digest != str(root.digest):
        return None

    if repository and not is_repository_name(repository):
        return None

    return Image(repository, tag, root, _registry(root, name))


def _registry(root: Descriptor, name: str) -> str:
    full = root.annotations.get(CONTAINERD_NAME, "")
    registry = full.removesuffix(f"/{name}")
    return registry if registry != full else ""
