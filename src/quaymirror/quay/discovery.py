"""Finding the images of a selection: two stages, joined by bounded streams.

    list_candidates   pages the API         -> Candidate: a repository whose name matched
    confirm           checks one candidate  -> Image: a reference pinned to its digest

The tag can be checked in two ways. Quay's API answers few calls a second (5 by Quay's own templates, over HTTP/1.1) and
leaves no trace; its registry answers ten times as many, but logs each as a pull. So a few tags are asked of the API,
and many of the registry.

Each stage is one coroutine that several tasks may run; closing a stream is how it says that it is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import (
    AccessDenied,
    ConfigError,
    CredentialsRefused,
    DiscoveryIncomplete,
    NotFound,
    Phase,
    QuaymirrorError,
    Scope,
    SelectionEmpty,
    UnsupportedContent,
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
from ..oci import Digest, Reference, Repository
from .api import Namespace, QuayAPI
from .schema import ListedRepository, Page
from .selection import Selection

# A listing that goes on for ever, or in circles, ends in an error and not in a full memory.
_MAX_REPOSITORIES = 200_000
_MAX_STALE_PAGES = 3

# Up to here, the API's burst and a few seconds do; the pull statistics of strangers stay as they are.
_FEW_CHECKS = 50
# Quay's token for that many repositories still fits into a header: 80 would not.
_TOKEN_BATCH = 30


class Discovery(Enum):
    """Whom to ask which digest a tag has: few tags the API and many the registry, or always one of them."""

    AUTO = "auto"
    API = "api"
    REGISTRY = "registry"


class Tags(Protocol):
    """The registry, as far as discovery needs it."""

    async def resolve(self, repository: Repository, tag: str, *, beside: Sequence[Repository] = ()) -> Digest | None:
        """Return what `tag` means, None if there is no such tag; a token for it should do for those `beside`, too.

        :raises AccessDenied: when the repository is gone or not for us.
        :raises UnsupportedContent: when the registry does not say.
        :raises QuaymirrorError: when there is no usable answer.
        """


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository whose name matched; `last_modified` as in the listing.

    With `batch`, the registry is to be asked about the tag, and these repositories share a token where one is needed.
    """

    repository: Repository
    last_modified: int | None = None
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
    api: QuayAPI, registry: str, selection: Selection, *, observer: Observer, discovery: Discovery = Discovery.AUTO
) -> AsyncIterator[list[Candidate]]:
    """Iterate over the candidates of `selection`, page by page, each repository once.

    :raises ConfigError: when the registry is to be asked for what it does not know: since when a tag is where it is.
    :raises SelectionEmpty: when there is no such organization, or nothing in it that we may see.
    :raises CredentialsRefused: when the API token does not count.
    :raises DiscoveryIncomplete: when the listing breaks off or makes no sense.
    """
    if selection.since is not None and discovery is Discovery.REGISTRY:
        raise ConfigError("--since needs Quay's API: --discovery registry can't tell when a tag was updated")

    listing = _Listing()
    next_page: str | None = None
    checks = 0
    while True:
        page = await _page(api, selection.organization, next_page, listing.pages)
        for reason in page.rejected:
            observer(Notice(f"{selection.organization}: the listing has {reason}: left out"))

        if listing.pages == 0:
            await _prove(api, selection.organization, page)

        new = listing.take(page)
        matched = [repository for repository in new if selection.matches(repository.name)]
        observer(PageListed(listing.pages, len(new), len(matched)))
        candidates = list(_candidates(matched, registry, selection, observer))
        checks += len(candidates)
        is_many = discovery is Discovery.REGISTRY or (discovery is Discovery.AUTO and checks > _FEW_CHECKS)
        yield list(_batched(candidates)) if is_many and selection.since is None else candidates
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
        elif selection.since is not None and _is_older(repository.last_modified, selection.since):
            # A repository is as new as its newest tag: none of its tags can be newer.
            observer(CandidateSkipped(name, "not updated since"))
        else:
            yield Candidate(Repository(registry, name), repository.last_modified)


def _batched(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    for start in range(0, len(candidates), _TOKEN_BATCH):
        several = candidates[start : start + _TOKEN_BATCH]
        batch = tuple(candidate.repository for candidate in several)
        yield from (replace(candidate, batch=batch) for candidate in several)


async def list_candidates(
    outbox: MemoryObjectSendStream[Candidate],
    *,
    api: QuayAPI,
    registry: str,
    selection: Selection,
    observer: Observer,
    discovery: Discovery = Discovery.AUTO,
) -> None:
    """Send every candidate of `selection` to `outbox`, and close it.

    :raises ConfigError, SelectionEmpty, CredentialsRefused, DiscoveryIncomplete: as `pages`.
    """
    async with outbox:
        async for candidates in pages(api, registry, selection, observer=observer, discovery=discovery):
            for candidate in candidates:
                await outbox.send(candidate)


async def confirm(
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
    *,
    api: QuayAPI,
    tags: Tags,
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
                found = await check(candidate, api=api, tags=tags, selection=selection)
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


async def check(candidate: Candidate, *, api: QuayAPI, tags: Tags, selection: Selection) -> Image | CandidateSkipped:
    """Return the image that `selection` means in `candidate`, or why there is none.

    :raises CredentialsRefused: when our token is not accepted any more.
    :raises QuaymirrorError: when there is no usable answer.
    """
    if candidate.batch:
        try:
            return await _check_by_registry(candidate, tags, selection.tag)
        except (AccessDenied, UnsupportedContent):
            pass  # the API knows better what is gone, what is private, and what the tag means

    return await _check_by_api(candidate, api, selection)


async def _check_by_registry(candidate: Candidate, tags: Tags, tag: str) -> Image | CandidateSkipped:
    digest = await tags.resolve(candidate.repository, tag, beside=candidate.batch)
    if digest is None:
        return CandidateSkipped(candidate.repository.name, "no such tag")

    return Image(Reference(candidate.repository, tag, digest))


async def _check_by_api(candidate: Candidate, api: QuayAPI, selection: Selection) -> Image | CandidateSkipped:
    name = candidate.repository.name
    try:
        tag = await api.tag(name, selection.tag)
    except NotFound:
        return CandidateSkipped(name, "gone since it was listed")
    except AccessDenied as error:
        if error.status != 401:
            raise

        # Quay hides what is gone from the anonymous as it hides what is private.
        return CandidateSkipped(name, "gone or private since it was listed")

    if tag is None:
        return CandidateSkipped(name, "no such tag")

    if selection.since is not None and _is_older(tag.start, selection.since):
        return CandidateSkipped(name, "not updated since")

    return Image(Reference(candidate.repository, tag.name, tag.digest), tag.start, tag.size)


def _is_older(moment: int | None, since: datetime) -> bool:
    return moment is not None and moment < since.timestamp()
