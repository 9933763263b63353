"""Finding the images of a selection: two stages, joined by bounded streams.

    list_candidates   pages the API         -> Candidate: a repository whose name matched
    confirm           checks one candidate  -> Image: a reference pinned to its digest

Each is one coroutine that several tasks may run; closing a stream is how it says that it is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..catalog.quay.api import Namespace, QuayAPI
from ..catalog.quay.lookup import TOKEN_BATCH, TagLookup
from ..catalog.quay.schema import ListedRepository, Page, Tag
from ..errors import (
    AccessDenied,
    CredentialsRefused,
    DiscoveryIncomplete,
    Failure,
    NotFound,
    Phase,
    QuaymirrorError,
    Scope,
    SelectionEmpty,
)
from ..events import (
    CandidateChecked,
    CandidateSkipped,
    CheckFailed,
    ImageQueued,
    ListingFinished,
    Observer,
    PageListed,
    TagChecked,
    ignore,
)
from ..oci import Reference, Repository
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..store.records import TagCheck
from .hints import matching_tags, no_such_repository, tell_left_out
from .tag_cache import TagMemory, tag_of

# A listing that goes on for ever, or in circles, ends in an error and not in a full memory.
_MAX_REPOSITORIES = 200_000
_MAX_PAGES = 10_000
_MAX_STALE_PAGES = 3

NO_SUCH_TAG = "no such tag"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository whose name matched; `last_modified` as in the listing, `listed_at` by the server's clock.

    `batch` are repositories that share a token with it where the registry needs one.
    """

    repository: Repository
    last_modified: int | None = None
    listed_at: int | None = None
    batch: tuple[Repository, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was found: its reference pinned to a digest, and what the API said of it.

    `updated` is the POSIX time since when the tag points there, `size` the compressed layers in bytes. Either is None
    where the registry was asked; `size` also for an index.
    """

    reference: Reference
    updated: int | None = None
    size: int | None = None


@dataclass(slots=True)
class _Listing:
    """What keeps a listing honest: every name once, and an end."""

    names: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    stale_pages: int = 0
    pages: int = 0
    rejected: int = 0

    def take(self, page: Page) -> list[ListedRepository]:
        """Return the repositories of `page` that no earlier page had.

        :raises DiscoveryIncomplete: when the pages lead nowhere.
        """
        distinct = {repository.name: repository for repository in page.repositories}
        new = [repository for name, repository in distinct.items() if name not in self.names]
        self.names.update(repository.name for repository in new)
        self.pages += 1
        self.rejected += len(page.rejected)
        self.stale_pages = 0 if new else self.stale_pages + 1
        if page.next_page is not None and page.next_page in self.tokens:
            raise DiscoveryIncomplete("the listing goes in circles: its next page was there before")

        if self.stale_pages >= _MAX_STALE_PAGES and page.next_page is not None:
            raise DiscoveryIncomplete(f"the listing does not advance: {self.stale_pages} pages without a new name")

        if len(self.names) > _MAX_REPOSITORIES:
            raise DiscoveryIncomplete(f"the listing has more than {_MAX_REPOSITORIES:,} repositories")

        if self.pages >= _MAX_PAGES and page.next_page is not None:
            raise DiscoveryIncomplete(f"the listing has more than {_MAX_PAGES:,} pages")

        if self.rejected and not self.names and page.next_page is None:
            raise DiscoveryIncomplete(f"the listing has {self.rejected:,} entries, none of which makes sense")

        self.tokens.add(page.next_page or "")
        return new


async def pages(
    api: QuayAPI, registry: str, selection: Selection, *, observer: Observer
) -> AsyncGenerator[list[Candidate]]:
    """Iterate over the candidates of `selection`, page by page, each repository once.

    :raises SelectionEmpty: when there is no such organization, nothing in it that we may see, or nothing that matches.
    :raises CredentialsRefused: when the API token does not count.
    :raises DiscoveryIncomplete: when the listing breaks off or makes no sense.
    """
    listing = _Listing()
    has_matched = False
    next_page: str | None = None
    while True:
        page = await _page(api, selection.organization, next_page, listing.pages)
        tell_left_out(selection.organization, page.rejected, observer)
        if listing.pages == 0:
            await _prove(api, selection.organization, page)

        new = listing.take(page)
        matched = [repository for repository in new if selection.matches(repository.name)]
        observer(PageListed(listing.pages, len(new), len(matched), len(page.rejected)))
        has_matched = has_matched or bool(matched)
        candidates = list(_candidates(replace(page, repositories=tuple(matched)), registry, selection, observer))
        yield list(_batched(candidates))
        if page.next_page is None:
            observer(ListingFinished(listing.pages, complete=True))
            if not has_matched:
                raise no_such_repository(selection, listing.names)

            return

        next_page = page.next_page


async def _page(api: QuayAPI, organization: str, next_page: str | None, so_far: int) -> Page:
    try:
        return await api.repositories(organization, next_page)
    except CredentialsRefused:
        raise
    except QuaymirrorError as error:
        after = f" after {so_far} pages" if so_far else ""
        raise DiscoveryIncomplete(f"can't list {organization!r}{after}: {error.message}") from error


async def _prove(api: QuayAPI, organization: str, first: Page) -> None:
    """Don't believe a first page that can mean something else than it says.

    :raises CredentialsRefused: when the token was ignored, so that private repositories are missing.
    :raises SelectionEmpty: when it is empty.
    """
    if api.has_token:
        # is_starred is there only for whom the server knows (Quay, endpoints/api/repository).
        counts = any(repository.seen_by_token for repository in first.repositories)
        if not counts and not (not first.repositories and await api.accepts_token(organization)):
            raise CredentialsRefused(
                "the API token is not accepted: expired, revoked, or no OAuth token (robot accounts don't work here)"
            )

    if first.repositories or first.rejected or first.next_page:
        return

    match await api.namespace(organization):
        case Namespace.UNKNOWN:
            raise SelectionEmpty(f"there is no organization {organization!r} on this server")
        case Namespace.USER:
            raise SelectionEmpty(f"{organization!r} is a user without repositories that are visible here")
        case Namespace.ORGANIZATION:
            hint = "" if api.has_token else "; private ones need --token-file"
            raise SelectionEmpty(f"the organization {organization!r} has no repositories that are visible here{hint}")


def _candidates(matched: Page, registry: str, selection: Selection, observer: Observer) -> Iterator[Candidate]:
    for repository in matched.repositories:
        name = f"{selection.organization}/{repository.name}"
        if not repository.has_tags:
            observer(CandidateSkipped(name, "no tags", looked_at=False))
        elif selection.since is not None and _is_older(repository.last_modified, selection.since):
            # A repository is as new as its newest tag: none of its tags can be newer.
            observer(CandidateSkipped(name, "not updated since", looked_at=False))
        else:
            yield Candidate(Repository(registry, name), repository.last_modified, matched.at)


def _batched(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    for start in range(0, len(candidates), TOKEN_BATCH):
        several = candidates[start : start + TOKEN_BATCH]
        batch = tuple(candidate.repository for candidate in several)
        yield from (replace(candidate, batch=batch) for candidate in several)


async def list_candidates(
    outbox: MemoryObjectSendStream[Candidate],
    *,
    api: QuayAPI,
    registry: str,
    selection: Selection,
    observer: Observer,
) -> None:
    """Send every candidate of `selection` to `outbox`, and close it.

    :raises SelectionEmpty, CredentialsRefused, DiscoveryIncomplete: as `pages`.
    """
    async with outbox:
        async for candidates in pages(api, registry, selection, observer=observer):
            for candidate in candidates:
                await outbox.send(candidate)


async def list_pinned(
    outbox: MemoryObjectSendStream[Image], *, registry: str, selection: Selection, observer: Observer
) -> None:
    """Send the pinned images of `selection` to `outbox`, and close it: nobody is asked."""
    observer(PageListed(1, len(selection.pinned), len(selection.pinned)))
    observer(ListingFinished(1, complete=True))
    async with outbox:
        for pin in selection.pinned:
            repository = Repository(registry, f"{selection.organization}/{pin.repository}")
            observer(CandidateChecked(repository.name, 1))
            await _queue(Image(Reference(repository, pin.tag, pin.digest)), outbox, observer)


async def confirm(
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
    *,
    api: QuayAPI,
    lookup: TagLookup,
    selection: Selection,
    memory: TagMemory,
    observer: Observer,
    is_new: Callable[[Reference], bool] = lambda reference: True,
) -> None:
    """Send an `Image` for each tag of each candidate that is selected, and `is_new`.

    What `memory` can vouch for is not asked again.

    :raises CredentialsRefused: when our token is not accepted any more.
    """
    async with inbox, outbox:
        async for candidate in inbox:
            try:
                found = await check(
                    candidate, api=api, lookup=lookup, selection=selection, memory=memory, observer=observer
                )
            except QuaymirrorError as error:
                if error.scope is Scope.RUN:
                    raise

                failure = Failure.of(error.replace(phase=Phase.DISCOVER))
                observer(CheckFailed(str(candidate.repository), ",".join(selection.tags), failure))
            else:
                if isinstance(found, CandidateSkipped):
                    observer(found)
                    continue

                new = [image for image in found if is_new(image.reference)]
                observer(CandidateChecked(candidate.repository.name, len(new)))
                for image in new:
                    await _queue(image, outbox, observer)


async def _queue(image: Image, outbox: MemoryObjectSendStream[Image], observer: Observer) -> None:
    observer(TagChecked(image.reference))
    await outbox.send(image)
    observer(ImageQueued(image.reference))


async def check(
    candidate: Candidate,
    *,
    api: QuayAPI,
    lookup: TagLookup,
    selection: Selection,
    memory: TagMemory | None = None,
    observer: Observer = ignore,
) -> list[Image] | CandidateSkipped:
    """Return the images, one at least, that `selection` means in `candidate`, or why there is none.

    What `memory` knows is not asked; a glob for tags always is.

    :raises CredentialsRefused: when our token is not accepted any more.
    :raises QuaymirrorError: when there is no usable answer.
    """
    name = candidate.repository.name
    found: dict[str, Tag] = {}
    try:
        for wanted in selection.tags:
            if is_pattern(wanted):
                found |= {tag.name: tag for tag in await matching_tags(api, name, wanted, observer)}
            elif (tag := await _tag(candidate, wanted, lookup, selection, memory)) is not None:
                found[wanted] = tag
    except NotFound:
        return CandidateSkipped(name, "gone since it was listed")
    except AccessDenied as error:
        if error.status != 401:
            raise

        # Quay hides what is gone from the anonymous as it hides what is private.
        return CandidateSkipped(name, "gone or private since it was listed")

    return _judged(candidate, selection, list(found.values()))


async def _tag(
    candidate: Candidate, name: str, lookup: TagLookup, selection: Selection, memory: TagMemory | None
) -> Tag | None:
    known = memory and memory.recall(
        candidate.repository, name, last_modified=candidate.last_modified, now=candidate.listed_at
    )
    # What the registry was asked for has no start: only the API can tell how old it is.
    if known and (selection.since is None or known.start is not None or known.digest is None):
        return tag_of(known)

    tag, at = await lookup.tag(candidate.repository, name, beside=candidate.batch)
    if memory is not None:
        _remember(memory, candidate, name, tag, at)

    return tag


def _remember(memory: TagMemory, candidate: Candidate, name: str, tag: Tag | None, at: int | None) -> None:
    repository = candidate.repository
    if at is None or candidate.last_modified is None:
        return

    seen = (tag.digest, tag.start, tag.size, tag.expires) if tag else ()
    memory.remember(TagCheck(repository.registry, repository.name, name, candidate.last_modified, at, *seen))


def _judged(candidate: Candidate, selection: Selection, tags: list[Tag]) -> list[Image] | CandidateSkipped:
    if not tags:
        return CandidateSkipped(candidate.repository.name, NO_SUCH_TAG)

    if selection.since is not None:
        tags = [tag for tag in tags if not _is_older(tag.start, selection.since)]

    images = [Image(Reference(candidate.repository, tag.name, tag.digest), tag.start, tag.size) for tag in tags]
    return images or CandidateSkipped(candidate.repository.name, "not updated since")


def _is_older(moment: int | None, since: datetime) -> bool:
    return moment is not None and moment < since.timestamp()
