"""Discovery: from selections to pinned images, the one iterator that every command consumes.

    listing  --candidates-->  check x 16  --results-->  consumer

The streams are bounded, so that a listing of any length fits into memory. The first one is long: the listing runs ahead
of the checks, since only a complete listing shows the amount of work. All of it runs in a background task: no cancel
scope is open at a `yield`, so the consumer may use scopes of its own, and is not cancelled by a failure in here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import field
from functools import partial

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..catalog.base import MOST_REPOSITORIES, Catalog, PinnedImage
from ..errors import Failure, Phase, QuaymirrorError, Scope, SelectionEmpty
from ..events import (
    CandidateChecked,
    CandidateSkipped,
    CheckFailed,
    ListingFinished,
    Observer,
    PageListed,
    TagChecked,
    ignore,
)
from ..http.retry import before_waits
from ..oci import Reference, Repository
from ..selection.selection import Selection
from ..tasks import background, from_group
from ..values import dataclass
from .checks import NO_SUCH_TAG, Checker, LabelCheck
from .hints import ASKED, no_such_tag
from .listing import Candidate, find_candidates, some_names
from .tag_cache import TagCache
from .unmatched import Matches, find_unmatched

# Candidates that are checked at a time. The limiter of the host decides how many requests really are under way.
_CHECKERS = 16
# Repositories that are listed ahead of the checks: all of most organizations, in a few megabytes.
_AHEAD = 10_000


async def discover(
    selections: Sequence[Selection],
    catalog: Catalog,
    registry: str,
    *,
    cache: TagCache | None = None,
    observer: Observer = ignore,
    strict: bool = False,
    labels: LabelCheck | None = None,
    most: int = MOST_REPOSITORIES,
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selections`, each once; `registry` is the host in their references.

    `labels` decides which images have the labels that a selection wants. Names without wildcard that match nothing are
    events after everything else of their selection.

    Images come as soon as they are found, and failed checks are events. If `strict`, images come in the order of the
    listing, and the first failed check is raised. A selection without images does not end the others: the error of the
    first one comes at the end. To leave the iteration early, use `contextlib.aclosing`.

    :raises SelectionEmpty: if a selection matches nothing; a list of images does so only together with all others.
    :raises QuaymirrorError: if a listing breaks off, or nothing else can be found.
    """
    cache = cache or TagCache(is_kept=False)
    # A listing names each repository once: there is nothing to compare with.
    is_alone = len(selections) == 1 and not selections[0].exact and not selections[0].pinned
    taken: set[str] | None = None if is_alone else set()
    empty: SelectionEmpty | None = None
    missing: SelectionEmpty | None = None
    for selection in selections:
        search = _Search(catalog, registry, selection, observer, strict, taken, cache, labels, most)
        try:
            async with aclosing(search.images()) as images:
                async for image in images:
                    yield image
        except SelectionEmpty as error:
            if not selection.exact:
                empty = empty or error
                continue

            missing = missing or error
            if not search.matches.is_listed:
                observer(ListingFinished(0, complete=True))

            await search.report_unmatched()

    if not taken:
        empty = empty or missing

    if empty is not None:
        raise empty


@dataclass(frozen=True, slots=True)
class _Result:
    """The images of the candidate at this place of the listing, or the error that ends the iteration there."""

    place: int
    images: Sequence[PinnedImage] = ()
    error: QuaymirrorError | None = None


_Listed = tuple[int, Candidate]
"""A candidate with its place in the listing."""


@dataclass(slots=True)
class _Search:
    """The search for the images of one selection that are not `taken` by others; None if there are no others."""

    catalog: Catalog
    registry: str
    selection: Selection
    observer: Observer
    strict: bool
    taken: set[str] | None
    cache: TagCache
    labels: LabelCheck | None = None
    most: int = MOST_REPOSITORIES
    window: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(_AHEAD, fast_acquire=True))
    """Bounds the candidates whose results the consumer does not have yet."""
    missed: list[Repository] = field(default_factory=list)
    """Repositories without the tag, as many as are read for a hint."""
    matches: Matches = field(default_factory=Matches)
    has_results: bool = False

    async def images(self) -> AsyncGenerator[PinnedImage]:
        """Iterate over the images."""
        if self.selection.pinned:
            for image in self._pinned():
                yield image

            return

        outbox, inbox = anyio.create_memory_object_stream[_Result](_CHECKERS)
        waiting: dict[int, _Result] = {}
        place = 0
        with inbox:
            async with background(lambda: self._run(outbox)) as finish:
                async for received in inbox:
                    waiting[received.place if self.strict else place] = received
                    while (result := waiting.pop(place, None)) is not None:
                        place += 1
                        self.window.release()
                        if result.error is not None:
                            raise result.error

                        for image in result.images:
                            yield image

                await finish()

    def _pinned(self) -> Iterable[PinnedImage]:
        selection = self.selection
        self.observer(PageListed(1, len(selection.pinned), len(selection.pinned)))
        self.observer(ListingFinished(1, complete=True))
        for pin in selection.pinned:
            repository = Repository(self.registry, selection.prefix + pin.repository)
            reference = Reference(repository, pin.tag, pin.digest)
            yield from self._take(
                repository, [PinnedImage(reference, source=selection.source, referrers=pin.referrers)]
            )

    def _take(self, repository: Repository, images: Iterable[PinnedImage]) -> list[PinnedImage]:
        """Return those of `images` that were not found before, and send their events."""
        new = list(images)
        if self.taken is not None:
            new = [image for image in new if image.reference.full_name not in self.taken]
            self.taken.update(image.reference.full_name for image in new)

        self.observer(CandidateChecked(repository.name, len(new)))
        for image in new:
            self.observer(TagChecked(image.reference))

        return new

    async def _run(self, results: MemoryObjectSendStream[_Result]) -> None:
        candidates, listed = anyio.create_memory_object_stream[_Listed](_AHEAD)
        with results:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._list, candidates, results)
                    with listed:
                        for _ in range(_CHECKERS):
                            tasks.start_soon(self._check_all, tasks, listed.clone(), results)
            except BaseExceptionGroup as group:
                raise from_group(group) or group from None

            if self.missed and not self.has_results:
                raise await no_such_tag(self.catalog, self.missed, self.selection)

            await self.report_unmatched()

    async def report_unmatched(self) -> None:
        """Send an event for each name without wildcard that matched nothing."""
        list_names = partial(some_names, self.catalog, self.selection.organization)
        async for unmatched in find_unmatched(self.catalog, self.registry, self.selection, self.matches, list_names):
            self.observer(unmatched)

    async def _list(
        self, candidates: MemoryObjectSendStream[_Listed], results: MemoryObjectSendStream[_Result]
    ) -> None:
        """Send the candidates with their places. If strict, an error comes after the images listed before it."""
        place = 0
        known = self.cache.repositories
        listing = find_candidates(
            self.catalog, self.registry, self.selection, self.observer, self.matches, known, most=self.most
        )
        try:
            async with candidates, aclosing(listing):
                async for candidate in listing:
                    await self.window.acquire()
                    await candidates.send((place, candidate))
                    place += 1
        except QuaymirrorError as error:
            if not self.strict:
                raise

            await results.send(_Result(place, error=error))

    async def _check_all(
        self,
        tasks: TaskGroup,
        listed: MemoryObjectReceiveStream[_Listed],
        results: MemoryObjectSendStream[_Result],
    ) -> None:
        """Check candidates; while one waits for another attempt, another task goes on in its place."""
        labels = self.labels if self.selection.labels else None
        checker = Checker(self.catalog, self.selection, self.cache, self.observer, labels, self.matches)
        is_replaced = False

        def give_way() -> None:
            nonlocal is_replaced
            if not is_replaced:
                is_replaced = True
                tasks.start_soon(self._check_all, tasks, listed.clone(), results)

        with listed, before_waits(give_way):
            async for place, candidate in listed:
                try:
                    images = self._found(candidate, await checker.check(candidate))
                except QuaymirrorError as error:
                    await results.send(self._failed(place, candidate, error))
                else:
                    await results.send(_Result(place, images))

                if is_replaced:
                    return

    def _found(self, candidate: Candidate, found: list[PinnedImage] | CandidateSkipped) -> list[PinnedImage]:
        if not isinstance(found, CandidateSkipped):
            self.has_results = True
            return self._take(candidate.repository, found)

        self.observer(found)
        if found.reason == NO_SUCH_TAG and len(self.missed) < ASKED:
            self.missed.append(candidate.repository)

        return []

    def _failed(self, place: int, candidate: Candidate, error: QuaymirrorError) -> _Result:
        """Return the result of a check that failed; raise `error` if nothing else can be found."""
        self.has_results = True
        self.matches.uncertain.add(candidate.listed.name)
        if self.strict:
            return _Result(place, error=error)

        if error.scope is Scope.RUN:
            raise error

        failure = Failure.of(error.replace(phase=Phase.DISCOVER))
        self.observer(CheckFailed(str(candidate.repository), ",".join(self.selection.tags), failure))
        return _Result(place)
