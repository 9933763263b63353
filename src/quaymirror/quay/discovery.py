"""Finding the images of a selection: two stages, joined by bounded streams.

    list_candidates   pages the API         -> Candidate: a repository whose name matched
    confirm           checks one candidate  -> Image: a reference pinned to its digest (`check` knows how)

Each is one coroutine that several tasks may run; closing a stream is how it says that it is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import (
    CredentialsRefused,
    DiscoveryIncomplete,
    Phase,
    QuaymirrorError,
    Scope,
    SelectionEmpty,
)
from ..events import (
    CandidateSkipped,
    ImageQueued,
    ListingFinished,
    Notice,
    Observer,
    Outcome,
    PageListed,
    Status,
    TagChecked,
)
from ..oci import Reference, Repository
from .api import Namespace, QuayAPI
from .check import Candidate, Image, TagChecker, batched, is_older
from .schema import ListedRepository, Page
from .selection import Selection

# A listing that goes on for ever, or in circles, ends in an error and not in a full memory.
_MAX_REPOSITORIES = 200_000
_MAX_STALE_PAGES = 3


@dataclass(slots=True)
class _Listing:
    """What keeps a listing honest: every name once, and an end."""

    names: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    stale_pages: int = 0
    pages: int = 0

    def take(self, page: Page) -> list[ListedRepository]:
        """Return the repositories of `page` that no earlier page had.

        :raises DiscoveryIncomplete: when the pages lead nowhere.
        """
        new = [repository for repository in page.repositories if repository.name not in self.names]
        self.names.update(repository.name for repository in new)
        self.pages += 1
        self.stale_pages = 0 if new else self.stale_pages + 1
        if page.next_page is not None and page.next_page in self.tokens:
            raise DiscoveryIncomplete("the listing goes in circles: its next page was there before")

        if self.stale_pages >= _MAX_STALE_PAGES and page.next_page is not None:
            raise DiscoveryIncomplete(f"the listing does not advance: {self.stale_pages} pages without a new name")

        if len(self.names) > _MAX_REPOSITORIES:
            raise DiscoveryIncomplete(f"the listing has more than {_MAX_REPOSITORIES:,} repositories")

        self.tokens.add(page.next_page or "")
        return new


async def pages(
    api: QuayAPI, registry: str, selection: Selection, *, observer: Observer
) -> AsyncGenerator[list[Candidate]]:
    """Iterate over the candidates of `selection`, page by page, each repository once.

    :raises SelectionEmpty: when there is no such organization, or nothing in it that we may see.
    :raises CredentialsRefused: when the API token does not count.
    :raises DiscoveryIncomplete: when the listing breaks off or makes no sense.
    """
    listing = _Listing()
    next_page: str | None = None
    while True:
        page = await _page(api, selection.organization, next_page, listing.pages)
        for reason in page.rejected:
            observer(Notice(f"{selection.organization}: the listing has {reason}: left out"))

        if listing.pages == 0:
            await _prove(api, selection.organization, page)

        new = listing.take(page)
        matched = [repository for repository in new if selection.matches(repository.name)]
        observer(PageListed(listing.pages, len(new), len(matched)))
        yield list(batched(list(_candidates(matched, registry, selection, observer))))
        if page.next_page is None:
            observer(ListingFinished(listing.pages, complete=True))
            return

        next_page = page.next_page


async def _page(api: QuayAPI, organization: str, next_page: str | None, so_far: int) -> Page:
    try:
        return await api.repositories(organization, next_page)
    except CredentialsRefused:
        raise
    except QuaymirrorError as error:
        raise DiscoveryIncomplete(
            f"can't list {organization!r} after {so_far} pages: {error.message}" if so_far else error.message
        ) from error


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


def _candidates(
    matched: list[ListedRepository], registry: str, selection: Selection, observer: Observer
) -> Iterator[Candidate]:
    for repository in matched:
        name = f"{selection.organization}/{repository.name}"
        if not repository.has_tags:
            observer(CandidateSkipped(name, "no tags"))
        elif selection.since is not None and is_older(repository.last_modified, selection.since):
            # A repository is as new as its newest tag: none of its tags can be newer.
            observer(CandidateSkipped(name, "not updated since"))
        else:
            yield Candidate(Repository(registry, name), repository.last_modified)


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


async def confirm(
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
    *,
    checker: TagChecker,
    selection: Selection,
    observer: Observer,
    failed: Callable[[Outcome], None],
) -> None:
    """Send an `Image` for each candidate that carries the tag; `failed` gets the outcome of those that can't be told.

    :raises CredentialsRefused: when our token is not accepted any more.
    """
    async with inbox, outbox:
        async for candidate in inbox:
            try:
                found = await checker.check(candidate, selection)
            except QuaymirrorError as error:
                if error.scope is Scope.RUN:
                    raise

                error.phase = Phase.DISCOVER
                failed(Outcome(Reference(candidate.repository, selection.tag), Status.FAILED, error=error))
            else:
                if isinstance(found, CandidateSkipped):
                    observer(found)
                else:
                    observer(TagChecked(found.reference))
                    await outbox.send(found)
                    observer(ImageQueued(found.reference))
