"""Lists in numbered pages, as APIs serve them: an entry that appears or disappears meanwhile shifts all later ones.

So a list of several pages is read again until nothing new is found, unless the server states a number of entries that
stays the same and is the number of those that were read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from ..errors import Unavailable
from ..values import dataclass
from .base import ListedRepository, Page, Tag, TagList

PAGE_SIZE = 100
_MAX_READINGS = 4
_MAX_PAGES = 10_000
_MAX_TAGS = 50_000

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


FetchBatch = Callable[[int], Awaitable[Batch[T]]]
"""Returns the page with a number, from 1."""


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


async def pages_of(fetch: FetchBatch[ListedRepository], what: str) -> AsyncGenerator[Page]:
    """Iterate over the pages of a list of repositories called `what`, each repository once.

    :raises Unavailable: if it does not end, or changes with every reading.
    """
    seen: set[str] = set()
    rejected: set[str] = set()
    for again in range(_MAX_READINGS):
        reading, known = _Reading(), len(seen)
        for number in range(1, _MAX_PAGES + 1):
            batch = await fetch(number)
            _check_page(batch, what)
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

            if not batch.has_more:
                break
        else:
            raise Unavailable(f"{what}: the list does not end")

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


async def _all_pages(fetch: FetchBatch[Tag], what: str) -> AsyncGenerator[tuple[int, Batch[Tag]]]:
    for number in range(1, _MAX_PAGES + 1):
        batch = await fetch(number)
        _check_page(batch, what)
        yield number, batch
        if not batch.has_more:
            return

    raise Unavailable(f"{what}: the list does not end")


def _check_page(batch: Batch[T], what: str) -> None:
    if batch.has_more and not (batch.entries or batch.rejected or batch.skipped):
        raise Unavailable(f"{what}: a page without entries says that more follow")
