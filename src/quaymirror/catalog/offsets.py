"""Lists in numbered pages, as APIs serve them: an entry that appears or disappears meanwhile shifts all later ones.

So a list of several pages is read again until nothing new is found, unless the server states a number of entries that
stays the same and is the number of those that were read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Generic, Self, TypeVar

from ..errors import AccessDenied, CredentialsRefused, NotFound, Unavailable
from ..http.exchange import Response
from ..values import dataclass
from .base import ListedRepository, Page, Tag, TagList
from .json_api import time_of

PAGE_SIZE = 100
_MAX_READINGS = 4
_MAX_PAGES = 10_000
_MAX_TAGS = 50_000
# Entries that shift repeat some of a page, never all of so many pages.
_MAX_STALE_PAGES = 10

T = TypeVar("T", ListedRepository, Tag)


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """One page: its valid entries, descriptions of the others, and True if another page follows.

    `total` is the number of entries of the list, None if the server does not state it. `at` is the server's time
    (POSIX). `skipped` is the number of entries that are left out on purpose.
    """

    entries: tuple[T, ...]
    rejected: tuple[str, ...] = ()
    has_more: bool = False
    total: int | None = None
    at: int | None = None
    skipped: int = 0

    @classmethod
    def of(
        cls,
        response: Response,
        found: Iterable[T | str],
        *,
        has_more: bool,
        total: int | None = None,
        skipped: int = 0,
    ) -> Self:
        """Return the page in `response` with the entries in `found`, and the reasons there to reject others."""
        both = list(found)
        entries = tuple(one for one in both if not isinstance(one, str))
        return cls(
            entries, tuple(one for one in both if isinstance(one, str)), has_more, total, time_of(response), skipped
        )


FetchBatch = Callable[[int], Awaitable[Batch[T]]]
"""Returns the page with a number, from 1."""

Refuse = Callable[[AccessDenied | NotFound], Awaitable[CredentialsRefused | None]]
"""Returns the error for a list that is refused, None if what it belongs to does not exist."""


class _Reading:
    """One reading of a list of repositories."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.others = 0
        self.totals: set[int | None] = set()

    def take(self, batch: Batch[ListedRepository]) -> None:
        self.names.update(entry.name for entry in batch.entries)
        self.others += len(batch.rejected) + batch.skipped
        self.totals.add(batch.total)

    @property
    def is_whole(self) -> bool:
        return self.totals == {len(self.names) + self.others}


def refused_list(
    host: str, what: str, account: str, error: AccessDenied | NotFound, advice: str = ""
) -> CredentialsRefused | None:
    """Return the error if `host` does not show `what` to `account`, None if it says that this does not exist."""
    if isinstance(error, NotFound):
        return None

    more = f"; {advice}" if advice else ""
    return CredentialsRefused(f"{host} does not show {what} to {account}: {error.message}{more}", status=error.status)


async def organization_pages(
    fetch: FetchBatch[ListedRepository], what: str, refuse: Refuse, names: Sequence[str], advice: str = ""
) -> AsyncGenerator[Page]:
    """Iterate over the pages of the repositories of an organization; an unknown one has a single page without any.

    If `names` are given, only these are wanted, and no request is needed. An answer that is none of this API has
    `advice` in its error.

    :raises CredentialsRefused: if `refuse` returns one.
    :raises Unavailable: as `pages_of`.
    """
    if names:
        yield Page(tuple(map(ListedRepository, names)))
        return

    try:
        async with aclosing(pages_of(fetch, what)) as pages:
            async for page in pages:
                yield page
    except (AccessDenied, NotFound) as error:
        if (refused := await refuse(error)) is not None:
            raise refused from None

        yield Page(())
    except Unavailable as error:
        if error.status not in (200, 404) or not advice:
            raise

        raise error.replace(f"{error.message}; {advice}") from None


def other_address(kind: str, host: str, organization: str) -> str:
    """Return the advice for a `host` that may not be of this kind, whatever its address says."""
    return f"if {host} is not a {kind}, write registry://{host}/{organization}/GLOB:TAG"


async def pages_of(fetch: FetchBatch[ListedRepository], what: str) -> AsyncGenerator[Page]:
    """Iterate over the pages of a list of repositories called `what`, each repository once.

    :raises Unavailable: if it does not end, or changes with every reading.
    """
    seen: set[str] = set()
    rejected: set[str] = set()
    for again in range(_MAX_READINGS):
        reading, known = _Reading(), len(seen)
        async with aclosing(_all_pages(fetch, what)) as pages:
            async for number, batch in pages:
                reading.take(batch)
                new = tuple(entry for entry in batch.entries if entry.name not in seen)
                seen.update(entry.name for entry in new)
                faults = tuple(one for one in batch.rejected if one not in rejected)
                rejected.update(faults)
                is_settled = number == 1 or reading.is_whole or (again > 0 and len(seen) == known)
                is_end = not batch.has_more and is_settled
                # Pages of another reading are passed on only if they have something new.
                if again == 0 or new or faults or is_end:
                    yield Page(new, faults, None if is_end else f"{again} {number}", batch.at)

                if is_end:
                    return

    raise Unavailable(f"{what}: the list changed {_MAX_READINGS} times while it was read")


async def tags_of(fetch: FetchBatch[Tag], glob: str, what: str) -> TagList:
    """Return the tags of a list called `what` that `glob` matches, each once.

    A list of several pages is read until two readings agree, since a tag that moves changes no number.

    :raises Unavailable: if it does not end, or changes with every reading.
    """
    before = None
    for _ in range(_MAX_READINGS):
        tags: dict[str, Tag] = {}
        rejected: list[str] = []
        is_single = True
        async with aclosing(_all_pages(fetch, what)) as pages:
            async for number, batch in pages:
                is_single = number == 1
                tags.update((tag.name, tag) for tag in batch.entries if fnmatchcase(tag.name, glob))
                rejected += batch.rejected
                if len(tags) + len(rejected) > _MAX_TAGS:
                    raise Unavailable(f"{what}: the list does not end: more than {_MAX_TAGS:,} tags")

        digests = {name: tag.digest for name, tag in tags.items()}
        if is_single or digests == before:
            return TagList(tuple(tags.values()), tuple(rejected))

        before = digests

    raise Unavailable(f"{what}: the list changed {_MAX_READINGS} times while it was read")


async def _all_pages(fetch: FetchBatch[T], what: str) -> AsyncGenerator[tuple[int, Batch[T]]]:
    """Iterate over the pages of one reading, with their numbers."""
    seen: set[str] = set()
    stale = 0
    for number in range(1, _MAX_PAGES + 1):
        batch = await _page(fetch, number)
        if batch.total is not None and number * PAGE_SIZE < batch.total:
            # Links may be lost on the way, or have a form of their own; numbers of entries say the same.
            batch = replace(batch, has_more=True)

        if batch.has_more and not (batch.entries or batch.rejected or batch.skipped):
            raise Unavailable(f"{what}: a page without entries says that more follow")

        yield number, batch
        if not batch.has_more:
            return

        names = {entry.name for entry in batch.entries}
        stale = stale + 1 if names and names <= seen else 0
        seen |= names
        if stale == _MAX_STALE_PAGES:
            break

    raise Unavailable(f"{what}: the list does not end")


async def _page(fetch: FetchBatch[T], number: int) -> Batch[T]:
    try:
        return await fetch(number)
    except NotFound:
        if number == 1:
            raise

        # The list has become so short that this page does not exist any more.
        return Batch(())
