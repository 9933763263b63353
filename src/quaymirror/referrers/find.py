"""The search for the referrers of an image: by digest tags, the referrers API, and lists under fallback tags."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import anyio

from ..catalog.base import Catalog
from ..errors import (
    AccessDenied,
    Failure,
    NotFound,
    Phase,
    QuaymirrorError,
    Scope,
    Side,
    Unavailable,
    UnsupportedContent,
)
from ..oci import Descriptor, Digest, Repository, manifest
from ..oci.artifact import artifact_type_of
from ..oci.digest_tags import digest_tags, fallback_tag
from ..oci.manifest import Index, Manifest, Opaque
from ..registry.puller import Puller
from ..selection.selection import LockedReferrer
from ..tasks import run_all
from ..values import dataclass
from .choice import ReferrerChoice, ReferrerMode, is_leaf

# Far above any real image, far below harmful numbers.
MAX_DEPTH = 4
MAX_COUNT = 1_000
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
# Enough for the images that are in work at a time.
_REMEMBERED = 1_000
_REMEMBERED_BYTES = 16 * 1024

K = TypeVar("K")
V = TypeVar("V")


class PageForReferrers(Unavailable):
    """A lookup of referrers got a page in HTML: the registry is away, or it answers like this always."""

    advice = (
        "lookups of referrers got pages in HTML: if this is no outage and no proxy, but what the registry always"
        " answers, mirror without them: --referrers none"
    )


ReadStored = Callable[[Digest], Awaitable[bytes | None]]
"""Returns the verified content of a manifest that is at the target already, None if it is not."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest that belongs to `subject`; `tag` is the digest tag that leads to it, "" for none."""

    subject: Digest
    node: Manifest | Index
    artifact_type: str
    tag: str = ""


@dataclass(slots=True)
class Found:
    """The wanted referrers of an image, and the failures.

    All digest tags of the subjects in `tagged` were looked up, and all other referrers of those in `listed`.
    """

    referrers: list[Referrer] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    tagged: set[Digest] = field(default_factory=set)
    listed: set[Digest] = field(default_factory=set)

    def fail(self, referrer: Referrer, error: QuaymirrorError | None = None) -> None:
        """Note that `referrer` can't be brought, because of `error` or one that is noted already."""
        if error is not None:
            self.failures.append(
                Failure.of(error.replace(f"{referrer.artifact_type}: {error.message}"), phase=Phase.FETCH)
            )

        self.tagged.discard(referrer.subject)
        self.listed.discard(referrer.subject)

    @property
    def is_ended(self) -> bool:
        """Return True if a failure ends the run."""
        return any(failure.scope is Scope.RUN for failure in self.failures)


class ReferrerFinder:
    """Finds referrers at one source, during one run.

    The digest tags of a repository are listed once, for all of its images. Lists and manifests are remembered for a
    while: the signatures that a policy judges are mirrored next.
    """

    def __init__(self, source: Puller, catalog: Catalog) -> None:
        self._source = source
        self._catalog = catalog
        self._lists: OrderedDict[tuple[Repository, Digest], tuple[Descriptor, ...] | None] = OrderedDict()
        self._nodes: OrderedDict[tuple[Repository, Digest], Manifest | Index] = OrderedDict()
        self._tags: dict[Repository, Mapping[str, Digest | None] | None] = {}
        self._locks: dict[Repository, anyio.Lock] = {}

    async def find(
        self,
        repository: Repository,
        subjects: Sequence[Digest],
        choice: ReferrerChoice,
        *,
        read_stored: ReadStored | None = None,
        tags_only: bool = False,
    ) -> Found:
        """Return the chosen referrers of `subjects`, which are the manifests of one image, and the referrers of those.

        With `tags_only`, the referrers API is not asked. Manifests come from the target, by `read_stored`, if it has
        them. Failures of the source are returned; one that ends the run ends the search.

        :raises QuaymirrorError: if the run can't go on because of this machine or the target.
        """
        search = _Search(self, repository, choice, read_stored, tags_only)
        await search.run(subjects)
        return search.found

    async def find_locked(
        self,
        repository: Repository,
        subjects: Iterable[Digest],
        locked: Sequence[LockedReferrer],
        *,
        read_stored: ReadStored,
        recover: ReadStored,
    ) -> Found:
        """Return those of the `locked` referrers that belong to `subjects`, and to the others; nothing is looked up.

        Manifests come from the target, by `read_stored`, and those that the source has lost by `recover`. Failures are
        as in `find`.
        """
        search = _Search(self, repository, ReferrerChoice(ReferrerMode.ALL), read_stored, False, recover)
        await search.run_locked(subjects, locked)
        return search.found

    async def list(self, repository: Repository, subject: Digest) -> tuple[Descriptor, ...] | None:
        """Return the descriptors that the referrers API has; see `Puller.referrers`."""
        key = repository, subject
        if key not in self._lists:
            _remember(self._lists, key, await self._source.referrers(repository, subject))

        return self._lists[key]

    async def manifest(
        self, repository: Repository, digest: Digest, read_stored: ReadStored | None
    ) -> Manifest | Index:
        """Return a manifest, from the target if it has it.

        :raises UnsupportedContent: if it is no manifest or index.
        :raises QuaymirrorError: if it can't be fetched.
        """
        content = None if read_stored is None else await read_stored(digest)
        if content is not None:
            return manifest.parse_stored(content, digest)

        known = self._nodes.get((repository, digest))
        if known is not None:
            return known

        node = await self._source.manifest(repository, digest)
        if isinstance(node, Opaque):
            raise UnsupportedContent(f"{repository}@{digest} is not a manifest")

        if len(node.raw) <= _REMEMBERED_BYTES:
            _remember(self._nodes, (repository, digest), node)

        return node

    async def tagged(self, repository: Repository, subject: Digest) -> dict[str, Digest]:
        """Return the digest tags of `subject` that `repository` has, with their digests.

        Its fallback tag is among them if the tags can be listed.

        :raises QuaymirrorError: if they can't be looked up.
        """
        wanted, known = digest_tags(subject), await self._listed_tags(repository)
        if known is not None:
            wanted = (*wanted, fallback_tag(subject))

        found: dict[str, Digest] = {}

        async def look(tag: str) -> None:
            digest = None if known is None else known[tag]
            if digest is None:
                answer = await self._catalog.tag(repository, tag)
                digest = None if answer.tag is None else answer.tag.digest

            if digest is not None:
                found[tag] = digest

        await run_all(partial(look, tag) for tag in wanted if known is None or tag in known)
        return found

    async def fallback(self, repository: Repository, subject: Digest) -> Digest | None:
        """Return the digest of the fallback tag of `subject`, None if it does not exist.

        :raises QuaymirrorError: if it can't be looked up.
        """
        if await self._listed_tags(repository) is not None:
            return None  # it would have been found

        answer = await self._catalog.tag(repository, fallback_tag(subject))
        return None if answer.tag is None else answer.tag.digest

    async def _listed_tags(self, repository: Repository) -> Mapping[str, Digest | None] | None:
        async with self._locks.setdefault(repository, anyio.Lock()):
            if repository not in self._tags:
                try:
                    self._tags[repository] = await self._catalog.digest_tags(repository)
                except NotFound:
                    self._tags[repository] = {}  # the repository was deleted since its image was found

            return self._tags[repository]


def _remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


@dataclass(slots=True)
class _Search:
    finder: ReferrerFinder
    repository: Repository
    choice: ReferrerChoice
    read_stored: ReadStored | None
    tags_only: bool
    recover: ReadStored | None = None
    found: Found = field(default_factory=Found)
    _seen: set[tuple[Digest, Digest, str]] = field(default_factory=set)
    _asked: set[Digest] = field(default_factory=set)
    _bytes: int = 0
    _is_full: bool = False

    async def run(self, subjects: Sequence[Digest]) -> None:
        with self._until_failure():
            await self._run(subjects)

    async def run_locked(self, subjects: Iterable[Digest], locked: Iterable[LockedReferrer]) -> None:
        known, waiting = set(subjects), list(locked)
        with self._until_failure():
            while new := [each for each in waiting if each.subject in known]:
                waiting = [each for each in waiting if each.subject not in known]
                known.update(each.digest for each in new)
                await run_all(partial(self._add_locked, each) for each in new)

    @contextmanager
    def _until_failure(self) -> Iterator[None]:
        """End the search with a failure of the source that ends the run."""
        try:
            yield
        except QuaymirrorError as error:
            if error.side is not Side.SOURCE:
                raise

            self.found.failures.append(Failure.of(error))

    async def _run(self, subjects: Sequence[Digest]) -> None:
        for _ in range(MAX_DEPTH):
            subjects = [subject for subject in dict.fromkeys(subjects) if subject not in self._asked]
            self._asked.update(subjects)
            known = len(self.found.referrers)
            await run_all(partial(self._ask, subject) for subject in subjects)
            new = self.found.referrers[known:]
            subjects = [each.node.descriptor.digest for each in new if not is_leaf(each.artifact_type)]

    async def _ask(self, subject: Digest) -> None:
        """Find the referrers of one manifest."""
        tags: dict[str, Digest] = {}
        with _Collecting(self.found) as collecting:
            tags = await self.finder.tagged(self.repository, subject)

        is_tagged = collecting.succeeded
        fallback = tags.pop(fallback_tag(subject), None)
        is_listed = await self._list(subject, fallback) if is_tagged else False
        for tag, digest in sorted(tags.items()):
            is_tagged &= await self._add(subject, digest, tag=tag)

        if is_tagged:
            self.found.tagged.add(subject)

        if is_listed:
            self.found.listed.add(subject)

    async def _list(self, subject: Digest, fallback: Digest | None) -> bool:
        """Add the referrers that the API and the fallback tag list; return True if nothing is missing."""
        entries: dict[Digest, Descriptor] = {}
        is_complete = not self.tags_only
        with _Collecting(self.found) as collecting:
            listed, is_shown = (None, False) if self.tags_only else await self._api(subject)
            is_complete = is_complete and is_shown
            if listed is None and fallback is None and not self.tags_only:
                fallback = await self.finder.fallback(self.repository, subject)

            # The registry knows the types of its manifests; lists that clients wrote may lack them.
            entries = {
                entry.digest: entry
                for entry in listed or ()
                if entry.artifact_type is None or self.choice.wants(entry.artifact_type)
            }
            if fallback is not None:
                entries = {entry.digest: entry for entry in await self._fallback(fallback)} | entries

        is_complete &= collecting.succeeded
        chosen = list(entries)[:MAX_COUNT]
        if len(chosen) < len(entries):
            self._fail(f"{len(entries):,} referrers of {subject}; the limit is {MAX_COUNT:,}: use --artifact-type")
            is_complete = False

        results: list[bool] = []

        async def add(digest: Digest) -> None:
            results.append(await self._add(subject, digest))

        await run_all(partial(add, digest) for digest in chosen)
        return is_complete and all(results)

    async def _api(self, subject: Digest) -> tuple[tuple[Descriptor, ...] | None, bool]:
        """Return what the referrers API lists, None without one; and False if it may have more.

        Some registries deny access to everything that they don't know. The image itself was readable.
        """
        try:
            return await self.finder.list(self.repository, subject), True
        except AccessDenied:
            return None, False

    async def _fallback(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the entries of the list under a fallback tag; that tag may also be an image's own."""
        node = await self.finder.manifest(self.repository, digest, self.read_stored)
        return tuple(entry for entry in node.manifests if entry.is_manifest) if isinstance(node, Index) else ()

    async def _add(self, subject: Digest, digest: Digest, *, tag: str = "") -> bool:
        """Add one referrer if it is one, and wanted; return False if it can't be read."""
        key = (subject, digest, tag)
        if key in self._seen:
            return True

        self._seen.add(key)
        with _Collecting(self.found) as collecting:
            node = await self._manifest(digest)
            kind = artifact_type_of(node)
            refers = node.subject is not None and node.subject.digest == subject
            if tag or (refers and self.choice.wants(kind)):
                self._bytes += len(node.raw)
                self._keep(Referrer(subject, node, kind, tag))

        return collecting.succeeded and not self._is_full

    async def _add_locked(self, locked: LockedReferrer) -> None:
        """Add one referrer of a lock file, which has to be one."""
        subject, digest, tag = locked.subject, locked.digest, locked.tag
        before = len(self.found.failures)
        await self._add(subject, digest, tag=tag)
        is_found = any(
            (each.subject, each.node.descriptor.digest) == (subject, digest) for each in self.found.referrers
        )
        if not is_found and len(self.found.failures) == before and not self._is_full:
            self._fail(f"{digest} does not refer to {subject}, as the lock file says")

    async def _manifest(self, digest: Digest) -> Manifest | Index:
        try:
            return await self.finder.manifest(self.repository, digest, self.read_stored)
        except (NotFound, AccessDenied):
            content = None if self.recover is None else await self.recover(digest)
            if content is None:
                raise

            return manifest.parse_stored(content, digest)

    def _keep(self, referrer: Referrer) -> None:
        if self._bytes <= MAX_MANIFEST_BYTES and len(self.found.referrers) < MAX_COUNT:
            self.found.referrers.append(referrer)
        elif not self._is_full:
            self._is_full = True
            self._fail(f"more than {MAX_COUNT:,} referrers, or {MAX_MANIFEST_BYTES:,} bytes of their manifests")

    def _fail(self, message: str) -> None:
        self.found.failures.append(Failure.of(UnsupportedContent(f"{self.repository}: {message}")))


class _Collecting:
    """Collects a failure, unless it ends the run."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self.succeeded = True

    def __enter__(self) -> _Collecting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, QuaymirrorError) or error.scope is Scope.RUN:
            return False

        self.succeeded = False
        failure = Failure.of(error)
        is_page = failure.is_a(Unavailable) and failure.status == HTTPStatus.NOT_FOUND
        self._found.failures.append(replace(failure, kind=PageForReferrers) if is_page else failure)
        return True
