"""The repositories of a target registry that have a blob, and mounts between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import anyio

from ..errors import CredentialsRefused, RateLimited, ServiceError
from ..events import Notice, Observer
from ..oci import Descriptor, Digest, Repository
from ..registry.push import RegistryPusher, Upload

# After this many refused mounts of blobs that this run has uploaded, and none accepted, mounting is given up.
_MAX_REFUSALS = 3
# No answer of the registry about this mount (0), or no space: an upload would end like this as well.
_UNRELATED = frozenset({0, 413, 507})


class BlobLocations:
    """The content of a registry as far as it is known, by repository.

    Registries keep blobs per repository. The first image that needs a blob uploads it; the others wait for that,
    holding nothing, and mount it.
    """

    def __init__(self, registry: RegistryPusher, observer: Observer) -> None:
        self._registry = registry
        self._observer = observer
        self._present: defaultdict[Repository, set[Digest]] = defaultdict(set)
        self._locations: defaultdict[Digest, list[Repository]] = defaultdict(list)
        self._uploaded: set[Digest] = set()
        self._uploads: dict[Digest, anyio.Event] = {}
        self._doubted: set[Repository] = set()
        self._new: set[Repository] = set()
        self._unmountable: set[Repository] = set()
        self._is_proven = False
        self._trial = anyio.Lock()
        self._mounts, self._refusals = 0, 0

    def has(self, repository: Repository, digest: Digest) -> bool:
        """Return True if content is known to be in `repository`."""
        return digest in self._present[repository]

    def is_mountable(self, digest: Digest) -> bool:
        """Return True if a repository is known to have a blob."""
        return bool(self._locations[digest])

    def add_content(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Record that `repository` has `digests`."""
        self._present[repository].update(digests)

    def add_blob(self, repository: Repository, digest: Digest) -> None:
        """Record that `repository` has a blob, which can be mounted from there."""
        self._present[repository].add(digest)
        if repository not in self._locations[digest]:
            self._locations[digest].append(repository)

    def add_earlier(self, repository: Repository, digest: Digest, holders: Iterable[Repository]) -> None:
        """Record for an image in `repository` that earlier runs have left a blob in `holders`."""
        for holder in set(holders) - self._doubted:
            if holder == repository:
                self._present[repository].add(digest)
            elif holder not in self._locations[digest]:
                self._locations[digest].append(holder)

    def doubt(self, repository: Repository) -> None:
        """Distrust the records of earlier runs about `repository`: something else has changed it."""
        self._doubted.add(repository)

    def add_new(self, repository: Repository) -> None:
        """Record that `repository` was empty when the run began to write to it."""
        self._new.add(repository)

    def is_new(self, repository: Repository) -> bool:
        """Return True if `repository` has only what this run has brought."""
        return repository in self._new

    def drop(self, repository: Repository) -> None:
        """Forget the content of `repository`, whose image is complete: thousands of them would take memory."""
        self._present.pop(repository, None)
        self._new.discard(repository)

    async def mount(self, repository: Repository, node: Descriptor) -> tuple[bool, Upload | None]:
        """Mount a blob from another repository, waiting for an upload of it if one is under way.

        Returns False if it has to be uploaded, with the upload that a refused mount began.
        """
        upload: Upload | None = None
        while self._is_mounting:
            if self._location(node.digest, repository) is not None:
                async with self._in_turn():
                    is_mounted, upload = await self._try_mount(repository, node, upload)

                if is_mounted:
                    return True, None
            elif uploaded := self._uploads.get(node.digest):
                await uploaded.wait()
            else:
                break

        return False, upload

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Let one mount follow the other until one succeeds: a registry that mounts nothing is asked a few times only.

        Those that have waited until then follow at the same time.
        """
        if not self._mounts:
            async with self._trial:
                if not self._mounts:
                    yield
                    return

        yield

    async def find_or_begin(self, repository: Repository, node: Descriptor) -> tuple[bool, Upload | None]:
        """Return True if `repository` has a blob; otherwise the upload of it that the request has begun, if any.

        A registry that has shown that it mounts blobs is asked to mount it from the repository itself: it confirms that
        if the blob is there, and begins its upload if not. A new repository has only what this run brought.
        """
        if self.is_new(repository):
            return False, None

        if self._is_proven and repository not in self._doubted and repository not in self._unmountable:
            try:
                upload = await self._registry.mount(repository, node, repository)
            except ServiceError as error:
                self._denied(repository, error)
            else:
                return upload is None, upload

        return await self._registry.has_blob(repository, node), None

    async def _try_mount(
        self, repository: Repository, node: Descriptor, upload: Upload | None
    ) -> tuple[bool, Upload | None]:
        digest = node.digest
        location = self._location(digest, repository)
        if location is None or not self._is_mounting:
            return False, upload

        if upload is not None:
            await self._registry.cancel(upload)

        try:
            # The first mount of a blob that this run has uploaded shows whether the registry really mounts.
            is_proven = self._is_proven and digest in self._uploaded
            upload = await self._registry.mount(repository, node, location, check=not is_proven)
        except ServiceError as error:
            self._denied(location, error)
            return False, None

        if upload is not None:
            self._refused(digest, location)
            return False, upload

        self._mounts += 1
        self._is_proven = True
        self.add_blob(repository, digest)
        return True, None

    @contextmanager
    def uploading(self, digest: Digest) -> Iterator[None]:
        """Let others that need the same blob wait during the context."""
        ended = self._uploads.setdefault(digest, anyio.Event())
        try:
            yield
        finally:
            if self._uploads.get(digest) is ended:
                del self._uploads[digest]

            ended.set()

    def uploaded(self, repository: Repository, digest: Digest) -> None:
        """Record that this run has uploaded a blob."""
        self._uploaded.add(digest)
        self.add_blob(repository, digest)

    def not_mountable(self, nodes: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of `nodes` that no repository is known to have."""
        return [node for node in nodes if not self.is_mountable(node.digest)]

    @property
    def _is_mounting(self) -> bool:
        return bool(self._mounts) or self._refusals < _MAX_REFUSALS

    def _location(self, digest: Digest, repository: Repository) -> Repository | None:
        """Return a repository to mount a blob from, None if there is none."""
        known = self._locations[digest]
        usable = (each for each in known if each not in self._unmountable and each != repository)
        return next(usable, None)

    def _denied(self, location: Repository, error: ServiceError) -> None:
        """Remember that nothing can be mounted from `location`.

        :raises ServiceError: if the registry is busy or down, which says nothing about mounts.
        """
        is_about_mounts = error.status not in _UNRELATED or isinstance(error, CredentialsRefused)
        if isinstance(error, RateLimited) or not is_about_mounts:
            raise error

        self._unmountable.add(location)
        self._count_refusal()

    def _refused(self, digest: Digest, location: Repository) -> None:
        # The registry may have lost blobs of earlier runs; those of this run are there.
        if digest in self._uploaded:
            self._count_refusal()

        if location in self._locations[digest]:
            self._locations[digest].remove(location)

    def _count_refusal(self) -> None:
        self._refusals += 1
        if self._refusals == _MAX_REFUSALS and not self._mounts:
            self._observer(Notice("the target does not mount blobs: each repository gets its own upload"))
