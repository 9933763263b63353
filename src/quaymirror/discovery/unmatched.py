"""Names without wildcard that match nothing: repositories, tags, and images of a list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import field

from ..catalog.base import Catalog
from ..errors import QuaymirrorError
from ..events import NameUnmatched
from ..oci import Repository
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..values import dataclass
from .hints import ASKED, nearest_names

# Repositories whose tags are read for hints in all.
_MOST_ASKED = 20

ListNames = Callable[[], Awaitable[set[str]]]
"""Returns the names of repositories, as far as they can be listed."""


@dataclass(slots=True)
class Matches:
    """The names that were listed and found for one selection, as far as they can match a name without wildcard.

    `uncertain` are repositories whose tags are not known, because their check failed or was not needed.
    """

    names: set[str] = field(default_factory=set)
    is_listed: bool = False
    """True if the listing ended."""
    images: set[tuple[str, str]] = field(default_factory=set)
    repositories: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    without: list[str] = field(default_factory=list)
    """Repositories without a selected tag, as many as are read for hints."""

    def found(self, selection: Selection, repository: str, tags: Iterable[str]) -> None:
        """Record the selected `tags` of `repository`, which may be none."""
        for tag in tags:
            self.repositories.add(repository)
            if selection.exact:
                self.images.add((repository, tag))
            elif tag in selection.tags:
                self.tags.add(tag)

        if repository not in self.repositories and len(self.without) < ASKED:
            self.without.append(repository)


async def find_unmatched(
    catalog: Catalog, registry: str, selection: Selection, matches: Matches, list_names: ListNames
) -> AsyncIterator[NameUnmatched]:
    """Yield the names of `selection` without wildcard that match nothing, with the nearest existing ones.

    `list_names` is called if the listing was not read.
    """
    for line in selection.unnamed:
        yield NameUnmatched(f"{line} (an image without a name)")

    hints = _Hints(catalog, registry, selection, matches, list_names)
    start = f"{selection.source.host}/" if selection.source is not None and selection.source.host else ""
    place = start + selection.prefix
    if selection.exact:
        for repository, tag in selection.exact:
            if repository not in matches.uncertain and (repository, tag) not in matches.images:
                near = await hints.image(repository, tag)
                yield NameUnmatched(f"{place}{repository}:{tag}", tuple(selection.prefix + name for name in near))

        return

    for name in _literals(selection.globs):
        if name not in matches.repositories | matches.uncertain and not _is_excluded(selection, name):
            near = await hints.repositories(name)
            yield NameUnmatched(f"{place}{name}", tuple(selection.prefix + one for one in near))

    for tag in _literals(selection.tags):
        if tag not in matches.tags and not matches.uncertain:
            near = await hints.tags(matches.without, tag)
            yield NameUnmatched(f"{place}{selection.names}:{tag}", tuple(near))


def _literals(words: Iterable[str]) -> Iterator[str]:
    return (word for word in dict.fromkeys(words) if not is_pattern(word))


def _is_excluded(selection: Selection, name: str) -> bool:
    return not selection.matches(name)


class _Hints:
    """Names that are similar to those that match nothing, read within limits."""

    def __init__(
        self, catalog: Catalog, registry: str, selection: Selection, matches: Matches, list_names: ListNames
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._selection = selection
        self._matches = matches
        self._list_names = list_names
        self._left = _MOST_ASKED
        self._tags: dict[str, frozenset[str]] = {}
        self._listed: set[str] | None = None

    async def tags(self, repositories: Iterable[str], tag: str) -> list[str]:
        """Return the tags of `repositories` that are most similar to `tag`."""
        listed = [name for name in repositories if name in self._matches.names]
        return nearest_names([tag], {one for name in listed for one in await self._tags_of(name)})

    async def image(self, repository: str, tag: str) -> list[str]:
        """Return the most similar images of `repository`, or repositories if it has no tags."""
        if repository in self._matches.names and await self._tags_of(repository):
            return [f"{repository}:{one}" for one in await self.tags([repository], tag)]

        return await self.repositories(repository)

    async def repositories(self, name: str) -> list[str]:
        """Return the repositories with the names that are most similar to `name`, which has no image."""
        known = self._matches.names
        if name in known and not await self._tags_of(name):
            # A catalog takes names that are asked for as they are, whether they exist or not.
            known = self._matches.repositories | await self._all_names()

        return nearest_names([name], known - {name})

    async def _tags_of(self, name: str) -> frozenset[str]:
        if name not in self._tags and self._left:
            self._left -= 1
            self._tags[name] = frozenset()
            with suppress(QuaymirrorError):  # a hint is not worth another error
                repository = Repository(self._registry, self._selection.prefix + name)
                self._tags[name] = frozenset(await self._catalog.some_tags(repository))

        return self._tags.get(name, frozenset())

    async def _all_names(self) -> set[str]:
        """Return the names in the listing, as far as it can be read."""
        if self._listed is None:
            self._listed = await self._list_names()

        return self._listed
