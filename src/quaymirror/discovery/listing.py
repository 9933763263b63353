"""The repositories that a selection matches, from the pages of a catalog."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import field
from datetime import datetime

from ..catalog.base import MOST_REPOSITORIES, Catalog, ListedRepository, Page
from ..errors import (
    ConfigError,
    CredentialsRefused,
    DiscoveryIncomplete,
    HostUnusable,
    InvalidName,
    Phase,
    QuaymirrorError,
    Scope,
    StoreError,
    UnsafeRedirect,
)
from ..events import CandidateSkipped, ListingFinished, Notice, Observer, PageListed
from ..oci import Repository
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..values import dataclass
from .hints import no_such_repository
from .unmatched import Matches

# A listing that never ends, or repeats itself, is an error instead of a full memory.
_MAX_PAGES = 10_000
# Pages are not shorter than this, on average.
_LEAST_PER_PAGE = 20
_MAX_STALE_PAGES = 3
# Rejected entries of one answer that are described; the others are only counted.
_DESCRIBED = 10
# Pages that are read for hints.
_MOST_PAGES = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository whose name matched; `at` is the time of its listing by the server's clock.

    `batch` are repositories that are looked up together with it.
    """

    repository: Repository
    listed: ListedRepository
    at: int | None = None
    batch: tuple[Repository, ...] = ()


@dataclass(slots=True)
class _Listing:
    """The repositories listed so far, each name once, `most` of them; it ends a listing that does not advance."""

    most: int
    names: set[str] = field(default_factory=set)
    cursors: set[str] = field(default_factory=set)
    stale_pages: int = 0
    pages: int = 0
    rejected: int = 0

    def take(self, page: Page) -> list[ListedRepository]:
        """Return the repositories of `page` that no earlier page had.

        :raises DiscoveryIncomplete: if the listing repeats itself, has no end, or has no valid entry.
        """
        distinct = {repository.name: repository for repository in page.repositories}
        new = [repository for name, repository in distinct.items() if name not in self.names]
        self.names.update(repository.name for repository in new)
        self.pages += 1
        self.rejected += len(page.rejected)
        self.stale_pages = 0 if new else self.stale_pages + 1
        fault = self._fault(page.cursor)
        if fault is not None:
            raise DiscoveryIncomplete(f"the listing {fault}")

        self.cursors.add(page.cursor or "")
        return new

    def _fault(self, cursor: str | None) -> str | None:
        if len(self.names) > self.most:
            return f"has more than {self.most:,} repositories: raise --max-repositories if that is right"

        if cursor is None:
            is_nonsense = self.rejected and not self.names
            return f"has {self.rejected:,} entries, all of them invalid" if is_nonsense else None

        if cursor in self.cursors:
            return "goes in circles: its next page was there before"

        if self.stale_pages >= _MAX_STALE_PAGES:
            return f"does not advance: {self.stale_pages} pages without a new name"

        most = max(_MAX_PAGES, self.most // _LEAST_PER_PAGE)
        return f"has more than {most:,} pages" if self.pages >= most else None


async def find_candidates(
    catalog: Catalog,
    registry: str,
    selection: Selection,
    observer: Observer,
    matches: Matches,
    known: Container[str] = (),
    *,
    most: int = MOST_REPOSITORIES,
) -> AsyncGenerator[Candidate]:
    """Iterate over the candidates of `selection`, each repository once, in the order of the listing.

    `matches` gets the listed names, of which more than `most` are an error. One of the `known` repositories, which
    images were mirrored from, is a candidate even if it is listed without tags.

    :raises SelectionEmpty: if the organization is unknown or shows nothing, or no repository matches.
    :raises CredentialsRefused: if the catalog rejects the credentials.
    :raises DiscoveryIncomplete: if the listing breaks off or makes no sense.
    :raises HostUnusable, UnsafeRedirect: if the server can't be listed as it was named.
    """
    listing = _Listing(most, matches.names)
    has_matched = False
    async with aclosing(catalog.pages(selection.organization, names=_names(selection))) as pages:
        while (page := await _next(pages, selection.listed, listing.pages)) is not None:
            report_rejected(selection.listed, page.rejected, observer)
            if listing.pages == 0 and not (page.repositories or page.rejected or page.cursor):
                raise await catalog.explain_empty(selection.organization)

            new = listing.take(page)
            matched = [repository for repository in new if selection.matches(repository.name)]
            observer(PageListed(listing.pages, len(new), len(matched), len(page.rejected)))
            has_matched = has_matched or bool(matched)
            prefix = f"{registry}/{selection.prefix}"
            # That a repository has no tags any more takes more than one answer.
            wanted = [
                each
                for each in matched
                if (not each.has_tags and prefix + each.name in known) or _is_wanted(each, selection, observer, matches)
            ]
            for candidate in _batched(wanted, page.at, registry, selection.prefix, catalog.traits.batch):
                yield candidate

    observer(ListingFinished(listing.pages, complete=True))
    matches.is_listed = True
    if not has_matched:
        raise no_such_repository(selection, listing.names)


def _names(selection: Selection) -> tuple[str, ...]:
    """Return the names of all repositories that can be selected, () if there is a wildcard."""
    return () if any(is_pattern(glob) for glob in selection.globs) else selection.globs


async def _next(pages: AsyncGenerator[Page], listed: str, so_far: int) -> Page | None:
    try:
        return await anext(pages, None)
    except (CredentialsRefused, StoreError):
        raise  # with their own exit codes
    except QuaymirrorError as error:
        if isinstance(error, ConfigError) and not isinstance(error, InvalidName):
            raise  # such as an auth file: another attempt does not help

        after = f" after {so_far} {'page' if so_far == 1 else 'pages'}" if so_far else ""
        message = f"can't list {listed!r}{after}: {error.message}"
        if isinstance(error, HostUnusable | UnsafeRedirect):
            raise error.replace(message, scope=Scope.RUN, phase=Phase.DISCOVER) from error

        raise DiscoveryIncomplete(message) from error


def _is_wanted(repository: ListedRepository, selection: Selection, observer: Observer, matches: Matches) -> bool:
    """Return True unless the listing alone shows that no tag of `repository` is selected, which is an event."""
    if not repository.has_tags:
        reason = "no tags"
    elif selection.since is not None and is_older(repository.updated, selection.since):
        # A repository is as new as its newest tag: none of its tags can be newer.
        reason = "not updated since"
        matches.uncertain.add(repository.name)
    else:
        return True

    observer(CandidateSkipped(f"{selection.prefix}{repository.name}", reason, looked_at=False))
    return False


def _batched(
    listed: Sequence[ListedRepository], at: int | None, registry: str, prefix: str, size: int
) -> Iterator[Candidate]:
    for start in range(0, len(listed), size):
        several = listed[start : start + size]
        batch = tuple(Repository(each.registry or registry, prefix + each.name) for each in several)
        yield from (Candidate(name, each, at, batch) for name, each in zip(batch, several, strict=True))


def is_older(moment: int | None, since: datetime) -> bool:
    """Return True if `moment` (POSIX) is known and before `since`."""
    return moment is not None and moment < since.timestamp()


def report_rejected(where: str, reasons: Sequence[str], observer: Observer) -> None:
    """Send a notice for each of the first rejected entries, and one for the number of the others."""
    for reason in reasons[:_DESCRIBED]:
        observer(Notice(f"{where}: left out {reason}"))

    if len(reasons) > _DESCRIBED:
        observer(Notice(f"{where}: left out {len(reasons) - _DESCRIBED:,} more invalid entries"))


async def some_names(catalog: Catalog, organization: str) -> set[str]:
    """Return the names on the first pages of the listing of `organization`, for hints: none if it can't be read."""
    found: set[str] = set()
    left = _MOST_PAGES
    with suppress(QuaymirrorError):
        async with aclosing(catalog.pages(organization)) as pages:
            async for page in pages:
                found.update(repository.name for repository in page.repositories)
                left -= 1
                if not left:
                    break

    return found
