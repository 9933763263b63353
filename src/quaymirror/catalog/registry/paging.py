"""The pages of a list of names, as registries serve them: `n` entries each, and a `Link` to the next one.

Most registries page by the last name, so that nothing is lost when names appear or disappear meanwhile. Others page by
position: a name that disappears hides another one. Their lists are read again until nothing new is found.

Some send no `Link` (sonatype/nexus-public#209), which the specification allows: a page with as many names as were asked
for may have a successor. Others name a path that only a proxy or another port knows (#1011): only its query counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ...errors import NotFound, ServiceError, Unavailable
from ...http.client import Client
from ...http.exchange import Request, Response
from ...http.links import next_link
from ...http.origin import request_target
from ...untrusted import InvalidDocument, parse_object
from ...values import dataclass
from ..base import Tag
from .google import described_tags

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_READINGS = 4
_MAX_PAGES = 10_000
# Registries refuse more than their limit, which is unknown: first the usual limit, then the smallest of all.
_SIZES = (1000, 100)


@dataclass(frozen=True, slots=True)
class NamePage:
    """New names of one page, entries that break their grammar, and a text that names the next page, "" on the last.

    `tags` are those, by name, that the page describes more than by their names.
    """

    names: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    cursor: str = ""
    tags: Mapping[str, Tag] = field(default_factory=dict)


@dataclass(slots=True)
class NameList:
    """A list of names in a registry: `path` of the endpoint, the `key` in its answer, and the grammar of a name."""

    client: Client
    path: str
    key: str
    scope: str
    is_name: Callable[[str], bool]
    limit: int
    """The number of names from which on the list has no end."""
    _seen: set[str] = field(default_factory=set)
    _size: int = _SIZES[0]
    _guess: str = ""
    """The page after a full one without a link to it."""

    async def pages(self) -> AsyncGenerator[NamePage]:
        """Iterate over the pages, with each name once. Every request waits until its page is asked for.

        :raises NotFound: if the registry has no such list.
        :raises Unavailable: if the list makes no sense, has no end, or changes with every reading.
        :raises QuaymirrorError: if the registry gives no usable answer.
        """
        for reading in range(_MAX_READINGS):
            known, is_keyed = len(self._seen), True
            target, last, turns = "", "", set[str]()
            while True:
                page = await self._page(target, is_first=not (reading or target))
                if page is None:
                    is_keyed = False  # the name from which the page went on was deleted
                    break

                new = self._new(page.names)
                # One page is read at one moment.
                is_keyed = is_keyed and (_is_keyed(page, last) or not (target or page.cursor))
                is_end = not page.cursor and (is_keyed or (reading > 0 and len(self._seen) == known))
                self._check_end(page, turns)
                cursor = "" if is_end else f"{reading + (not page.cursor)} {page.cursor}"
                yield NamePage(new, self._new(page.rejected), cursor, page.tags)
                if not page.cursor:
                    break

                turns.add(page.cursor)
                target, last = page.cursor, page.names[-1] if page.names else last

            if is_keyed or (reading and len(self._seen) == known):
                return

        raise Unavailable(f"{self.path}: the list changed {_MAX_READINGS} times while it was read")

    async def _page(self, target: str, *, is_first: bool) -> NamePage | None:
        """Return one page; None if it does not exist any more."""
        try:
            return await self._get(target or f"{self.path}?n={self._size}")
        except NotFound:
            if is_first:
                raise

            return NamePage(()) if target == self._guess else None
        except ServiceError as error:
            if error.status == 400 and target and target == self._guess:
                return NamePage(())

            if error.status != 400 or target or self._size == _SIZES[-1]:
                raise

            self._size = _SIZES[-1]
            return await self._get(f"{self.path}?n={self._size}")

    async def _get(self, target: str) -> NamePage:
        request = Request(
            target,
            kind="api",
            headers={"Accept": "application/json"},
            scope=self.scope,
            name=f"{self.client.origin.netloc}{self.path}",
        )
        return await self.client.fetch(request, limit=_MAX_ANSWER, parse=self._parse)

    def _parse(self, response: Response, body: bytes) -> NamePage:
        try:
            document = parse_object(body, limit=_MAX_ANSWER)
        except InvalidDocument as error:
            raise Unavailable(f"{response.name}: the answer {error}") from None

        entries = document.get(self.key, False)
        if entries is None:
            entries = []  # Go writes an empty list as null

        if not isinstance(entries, list):
            raise Unavailable(f"{response.name}: the answer is not a list of {self.key}")

        names = tuple(entry for entry in entries if isinstance(entry, str) and self.is_name(entry))
        others = (entry for entry in entries if not (isinstance(entry, str) and self.is_name(entry)))
        rejected = tuple(f"an impossible name: {str(entry)[:100]!r}" for entry in others)
        return NamePage(names, rejected, self._next(response, entries), described_tags(document))

    def _next(self, response: Response, entries: list[Any]) -> str:
        """Return path and query of the page that follows one with `entries`, "" after the last."""
        link = next_link(response)
        _, has_query, query = link.partition("?")
        if link:
            return f"{self.path}?{query}" if has_query else link

        if len(entries) != self._size or not isinstance(entries[-1], str):
            return ""

        self._guess = f"{self.path}?{urlencode({'n': self._size, 'last': entries[-1]})}"
        # A registry that ignores `last` gives the same page again.
        return self._guess if self._guess != request_target(response.url) else ""

    def _new(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        new = tuple(dict.fromkeys(text for text in texts if text not in self._seen))
        self._seen.update(new)
        return new

    def _check_end(self, page: NamePage, turns: set[str]) -> None:
        if page.cursor in turns:
            raise Unavailable(f"{self.path}: the list goes in circles: its next page was there before")

        if len(self._seen) > self.limit or len(turns) > _MAX_PAGES:
            raise Unavailable(
                f"{self.path}: the list does not end: more than {min(len(self._seen), self.limit):,} names"
            )


def _is_keyed(page: NamePage, last: str) -> bool:
    """Return True if the page after `page` begins after its last name, wherever that is by then."""
    is_sorted = all(first < second for first, second in zip((last, *page.names), page.names, strict=False))
    key = parse_qs(urlsplit(page.cursor).query).get("last", [""])[-1]
    return is_sorted and (not page.cursor or key == (page.names[-1] if page.names else last))
