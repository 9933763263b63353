"""Names without wildcard that match nothing: repositories, tags, and images of a list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
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
    catalog: Catalog, registry: str, selection: Selection, matches: Matches
) -> AsyncIterator[NameUnmatched]:
    """Yield the names of `selection` without wildcard that match nothing, with the nearest existing ones."""
    for line in selection.unnamed:
        yield NameUnmatched(f"{line} (an image without a name)")

    tags = _Tags(catalog, registry, selection)
    start = f"{selection.source.host}/" if selection.source is not None and selection.source.host else ""
    place = start + selection.prefix
    if selection.exact:
        for repository, tag in selection.exact:
            if repository not in matches.uncertain and (repository, tag) not in matches.images:
                if repository in matches.names:
                    near = [f"{repository}:{one}" for one in await tags.nearest([repository], tag)]
                else:
                    near = nearest_names([repository], matches.names)

                yield NameUnmatched(f"{place}{repository}:{tag}", tuple(selection.prefix + name for name in near))

        return

    for name in _literals(selection.globs):
        if name not in matches.repositories | matches.uncertain and not _is_excluded(selection, name):
            near = nearest_names([name], matches.names - {name})
            yield NameUnmatched(f"{place}{name}", tuple(selection.prefix + one for one in near))

    for tag in _literals(selection.tags):
        if tag not in matches.tags and not matches.uncertain:
            near = await tags.nearest(matches.without, tag)
            yield NameUnmatched(f"{place}{selection.names}:{tag}", tuple(near))


def _literals(words: Iterable[str]) -> Iterator[str]:
    return (word for word in dict.fromkeys(words) if not is_pattern(word))


def _is_excluded(selection: Selection, name: str) -> bool:
    return not selection.matches(name)


class _Tags:
    """The tags of repositories, read for hints, within limits."""

    def __init__(self, catalog: Catalog, registry: str, selection: Selection) -> None:
        self._catalog = catalog
        self._registry = registry
        self._prefix = selection.prefix
        self._left = _MOST_ASKED

    async def nearest(self, repositories: Iterable[str], tag: str) -> list[str]:
        """Return the tags of `repositories` that are most similar to `tag`."""
        names: set[str] = set()
        for name in repositories:
            if self._left == 0:
                break

            self._left -= 1
            try:
                repository = Repository(self._registry, self._prefix + name)
                names.update(await self._catalog.some_tags(repository))
            except QuaymirrorError:
                continue  # a hint is not worth another error

        return nearest_names([tag], names)
