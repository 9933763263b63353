"""One mirror that is served: its published images, those that were replaced a while ago, and their lease."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import QuaymirrorError, StoreError
from ..oci import Descriptor, Digest
from ..store.details import read_details
from ..store.local_storage import LocalStorage
from ..store.reader import LayoutReader
from ..store.storage import INDEX, Lease, ObjectInfo, Storage
from .contents import Contents, read_contents
from .earlier import EarlierSets
from .published import Image, Published

# Clients that resolved a tag before the image was replaced pull the rest of it by digest.
RETIRED_SECONDS = 3600.0
# An image that is incomplete on disk is read again, at most this often.
_REREAD_SECONDS = 1.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Found:
    """Content of a repository: its descriptor, and whether it is asked for as a manifest."""

    node: Descriptor
    is_manifest: bool


class ServedMirror:
    """The images of one layout. Methods that read manifests block; one thread at a time may call them.

    `prefix` stands before the names of its repositories; `earlier` has the images of earlier days. `problem` is why its
    index can't be read now, `unleased` why its images can't be leased, both empty if they can.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str = "",
        *,
        earlier: EarlierSets | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.storage = storage
        self.prefix = prefix
        self.earlier = earlier
        self.published: Published = Published()
        self.problem: str = ""
        self.unleased: str = ""
        self.loaded_at: float = 0.0
        self._reader = LayoutReader(storage)
        self._clock = clock
        self._stamp: ObjectInfo | None = None
        self._lease: Lease | None = None
        self._contents: dict[Digest, Contents] = {}
        self._loose: Mapping[Digest, frozenset[Descriptor]] | None = None
        self._repositories: dict[str, _Repository] = {}
        self._retired: dict[str, dict[Descriptor, float]] = {}

    def refresh(self, lease: Lease | None = None) -> bool:
        """Read the index again if it has changed; return True if it was read.

        The images of `lease` are those that clients may still pull. If it can't be renewed now, because blobs are being
        deleted, the earlier images stay. A failure is kept in `problem`, and the earlier images stay.
        """
        self._lease = lease
        try:
            stamp = self.storage.info(INDEX)
            if stamp is None:
                raise StoreError(f"{self.storage}/{INDEX} is missing")

            if stamp == self._stamp and not self._has_expired():
                self.problem = ""
                return False

            done = self._leased_load() is not None if lease is None else self._renew(lease)
        except QuaymirrorError as error:
            self._stamp, self.problem = None, error.message
            return False

        self.problem = ""
        return done

    def full_name(self, repository: str) -> str:
        """Return the name under which clients pull `repository`."""
        return "/".join(filter(None, (self.prefix, repository)))

    def own_name(self, full_name: str) -> str | None:
        """Return the name that a repository would have in this mirror, None if it has another prefix."""
        if not self.prefix:
            return full_name

        if full_name == self.prefix:
            return ""

        return full_name[len(self.prefix) + 1 :] if full_name.startswith(f"{self.prefix}/") else None

    def has(self, repository: str) -> bool:
        """Return True if a repository has images, or had some a while ago."""
        published = self.published
        return repository in published.tags or repository in published.untagged or repository in self._retired

    def has_from(self, repository: str, registry: str) -> bool:
        """Return True if a repository has images that came from `registry`."""
        return any(image.registry == registry for image in self.published.tags.get(repository, {}).values())

    def find_now(self, repository: str, digest: Digest) -> Found | None:
        """Return the content with `digest` if it is known without reading manifests. It does not block."""
        view = self._repositories.get(repository)
        return None if view is None else view.find(digest)

    def find(self, repository: str, digest: Digest) -> Found | None:
        """Return the content with `digest` if an image of the repository needs it, or one that was replaced lately."""
        view = self._view(repository)
        found = view.find(digest)
        if found is None and view.incomplete and self._clock() - view.read_at >= _REREAD_SECONDS:
            for root in view.incomplete:
                self._contents.pop(root, None)

            self._repositories.pop(repository, None)
            found = self._view(repository).find(digest)

        return found or self._find_retired(repository, digest)

    def image_of_day(self, repository: str, tag: str) -> Image | None:
        """Return the image that `TAG.at.YYYY-MM-DD` means, None if it is not known any more.

        It is leased, and its content is found from now on.

        :raises StoreError: if the disk fails, or blobs are being deleted.
        """
        image = self.earlier.image(repository, tag) if self.earlier is not None else None
        if image is None:
            return None

        if self.find_now(repository, image.root.digest) is None:
            self._retired.setdefault(repository, {})[image.root] = self._clock() + RETIRED_SECONDS
            if self._lease is not None and not self._renew(self._lease):
                raise StoreError(f"{self.storage}: blobs are being deleted; try again")

        return image

    def referrers(self, repository: str, subject: Digest) -> list[Mapping[str, Any]]:
        """Return the descriptors of the referrers of `subject` in a repository, sorted by digest."""
        return self._view(repository).referrers.get(subject, [])

    def subjects(self, repository: str) -> list[str]:
        """Return the digests that have referrers in a repository, sorted."""
        return sorted(map(str, self._view(repository).referrers))

    def contents(self, root: Descriptor) -> Contents:
        """Return everything that an image needs."""
        found = self._contents.get(root.digest)
        if found is None:
            found = self._contents[root.digest] = read_contents(self._reader, root)

        return found

    def platforms(self, root: Descriptor) -> tuple[str, ...]:
        """Return the platforms of an image; none if they can't be read, or if that would take a request."""
        details = read_details(self._reader, root) if isinstance(self.storage, LocalStorage) else None
        return () if details is None else details.platforms

    def _find_retired(self, repository: str, digest: Digest) -> Found | None:
        for root in [*self._retired.get(repository, ())]:
            found = _find([self.contents(root)], digest)
            if found is not None:
                self._retired.setdefault(repository, {})[root] = self._clock() + RETIRED_SECONDS
                return found

        return None

    def _renew(self, lease: Lease) -> bool:
        """Renew `lease`. On a medium that can't be written the images are served without one."""
        is_read = False

        def load() -> set[Digest]:
            nonlocal is_read
            roots = self._leased_load()
            is_read = True
            return roots

        try:
            done = lease.renew(load)
            self.unleased = ""
        except StoreError as error:
            self.unleased = error.message
            if not is_read:
                self._leased_load()

            done = True

        return done

    def _has_expired(self) -> bool:
        now = self._clock()
        return any(end <= now for roots in self._retired.values() for end in roots.values())

    def _leased_load(self) -> set[Digest]:
        """Read the index, and return the images that clients may pull from now on, earlier ones included."""
        stamp = self.storage.info(INDEX)
        if stamp != self._stamp:
            published = Published.of(self._reader.index_entries())
            self._retire(published)
            self.published, self._stamp, self.loaded_at = published, stamp, time.time()
            self._repositories, self._loose = {}, None

        now = self._clock()
        kept = {name: {root: end for root, end in ends.items() if end > now} for name, ends in self._retired.items()}
        self._retired = {name: ends for name, ends in kept.items() if ends}
        current = {digest for roots in self.published.roots().values() for digest in roots}
        needed = current | {root.digest for ends in self._retired.values() for root in ends}
        known = self._contents.items()
        self._contents = {digest: found for digest, found in known if digest in needed and found.complete}
        return needed

    def _retire(self, published: Published) -> None:
        now, later = self._clock(), published.roots()
        for name, roots in self.published.roots().items():
            for digest, root in roots.items():
                if digest not in later.get(name, {}):
                    self._retired.setdefault(name, {})[root] = now + RETIRED_SECONDS

    def _view(self, repository: str) -> _Repository:
        view = self._repositories.get(repository)
        if view is None:
            roots = [image.root for image in self.published.images(repository)]
            view = _Repository([self.contents(root) for root in roots], self._clock())
            view.incomplete = {root.digest for root in roots if not self.contents(root).complete}
            self._add_loose(view)
            self._repositories[repository] = view

        return view

    def _add_loose(self, view: _Repository) -> None:
        """Add the referrers of its images that the index lists without a repository, and the referrers of those."""
        by_subject = self._loose_by_subject()
        added: set[Descriptor] = set()
        while by_subject:
            new = {root for digest in view.known() for root in by_subject.get(digest, ())} - added
            if not new:
                break

            added |= new
            view.add(self.contents(root) for root in sorted(new, key=lambda root: root.digest))

    def _loose_by_subject(self) -> Mapping[Digest, frozenset[Descriptor]]:
        if self._loose is None:
            found: defaultdict[Digest, set[Descriptor]] = defaultdict(set)
            for root in self.published.loose:
                for subject, _ in self.contents(root).referrers:
                    found[subject].add(root)

            self._loose = {subject: frozenset(roots) for subject, roots in found.items()}

        return self._loose


class _Repository:
    """The content of all images of one repository."""

    def __init__(self, contents: Iterable[Contents], read_at: float) -> None:
        self.read_at = read_at
        self.incomplete: set[Digest] = set()
        self.referrers: dict[Digest, list[Mapping[str, Any]]] = {}
        self._contents: list[Contents] = []
        self._all: dict[Digest, Found] = {}
        self.add(contents)

    def add(self, contents: Iterable[Contents]) -> None:
        """Add the content of further images."""
        for each in contents:
            for digest, node in each.nodes.items():
                if digest not in self._all or digest in each.manifests:
                    self._all[digest] = Found(node, digest in each.manifests)

            for subject, entry in each.referrers:
                entries = self.referrers.setdefault(subject, [])
                if all(other["digest"] != entry["digest"] for other in entries):
                    entries.append(entry)
                    entries.sort(key=lambda one: str(one["digest"]))

    def known(self) -> list[Digest]:
        """Return the digests of all content."""
        return list(self._all)

    def find(self, digest: Digest) -> Found | None:
        """Return the content with `digest`, None if no image needs it."""
        return self._all.get(digest)


def _find(contents: Iterable[Contents], digest: Digest) -> Found | None:
    for each in contents:
        if digest in each.nodes:
            return Found(each.nodes[digest], digest in each.manifests)

    return None
