"""The tags of one repository that a selection means, and those that it may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ..catalog.quay.api import QuayAPI
from ..catalog.quay.schema import Tag
from ..errors import QuaymirrorError, SelectionEmpty, Unavailable
from ..events import Notice, Observer, ignore
from ..oci import Digest
from ..selection.selection import Selection

# Paging that never ends is an error and no full memory.
_MAX_PAGES = 500
_MAX_TAGS = 50_000
_MAX_READINGS = 4
_LITERAL = re.compile(r"[A-Za-z0-9._-]+")
_BRACKETS = re.compile(r"\[[^]]*\]")

_TOLD = 10
_SHOWN = 3
# Repositories that are asked for their tags when none of all has the one that was meant.
_ASKED = 3


async def matching_tags(api: QuayAPI, repository: str, glob: str, observer: Observer = ignore) -> list[Tag]:
    """Return the living tags of `repository` (with its organization) that `glob` matches, each once.

    It takes a request for each hundred tags that come near it. Where it takes more than one, the list is read again
    until two readings agree: Quay pages by offset, so a tag that goes, or moves, meanwhile hides another one.
    What can't be the name of a tag is left out and told.

    :raises Unavailable: when the list does not end, or never stays the same.
    :raises QuaymirrorError: as `QuayAPI.tag`.
    """
    before: _Reading | None = None
    for _ in range(_MAX_READINGS):
        reading = await _read(api, repository, glob)
        if reading.is_atomic or (before is not None and reading.digests == before.digests):
            tell_left_out(repository, reading.rejected, observer)
            return list(reading.tags.values())

        before = reading

    raise Unavailable(f"{repository}: the list of its tags changed {_MAX_READINGS} times while it was read")


@dataclass(slots=True)
class _Reading:
    """One way through a repository's tags. It is atomic if that was a single page."""

    tags: dict[str, Tag] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    is_atomic: bool = True

    @property
    def digests(self) -> dict[str, Digest]:
        return {name: tag.digest for name, tag in self.tags.items()}


async def _read(api: QuayAPI, repository: str, glob: str) -> _Reading:
    reading = _Reading()
    for number in range(1, _MAX_PAGES + 1):
        page = await api.tags(repository, _part(glob), number)
        # A tag that moves while one pages comes twice: the first is the newer.
        reading.tags = {tag.name: tag for tag in page.tags if fnmatchcase(tag.name, glob)} | reading.tags
        reading.rejected += page.rejected
        if len(reading.tags) + len(reading.rejected) > _MAX_TAGS:
            break

        if not page.has_more or page.is_empty:
            return reading

        reading.is_atomic = False

    raise Unavailable(f"{repository}: the list of its tags does not end")


def tell_left_out(where: str, reasons: Sequence[str], observer: Observer) -> None:
    """Tell of entries that made no sense: of the first ones why, of the others how many."""
    for reason in reasons[:_TOLD]:
        observer(Notice(f"{where}: left out {reason}"))

    if len(reasons) > _TOLD:
        observer(Notice(f"{where}: left out {len(reasons) - _TOLD:,} more entries that make no sense"))


def _part(glob: str) -> str:
    """Return the longest text that every match of `glob` holds."""
    return max(_LITERAL.findall(_BRACKETS.sub("*", glob)), key=len, default="")


async def no_such_tag(api: QuayAPI, repositories: Iterable[str], selection: Selection) -> SelectionEmpty:
    """Return the error that says that no repository has the tag, with the nearest tags that some of them have."""
    names: set[str] = set()
    for repository in list(repositories)[:_ASKED]:
        try:
            names |= {tag.name for tag in (await api.tags(repository, "", 1)).tags}
        except QuaymirrorError:
            continue  # a hint is not worth another error

    tag = " or ".join(selection.tags)
    return SelectionEmpty(
        f"no repository of {selection.organization} has the tag {tag}{nearest(selection.tags, names)}"
    )


def no_such_repository(selection: Selection, names: Iterable[str]) -> SelectionEmpty:
    """Return the error that says that no repository matches, with the nearest of `names`."""
    glob = " or ".join(selection.globs)
    excluded = " (less what is excluded)" if selection.exclude else ""
    return SelectionEmpty(
        f"no repository of {selection.organization} matches {glob}{excluded}{nearest(selection.globs, names)}"
    )


def nearest(wanted: Iterable[str], names: Iterable[str]) -> str:
    """Return `; nearest: …` with the names that are most like one of `wanted`, '' if none is."""
    literals = ["".join(_LITERAL.findall(_BRACKETS.sub("*", text))) for text in wanted]
    known = sorted(names)
    close = [name for text in literals for name in get_close_matches(text, known, _SHOWN, 0.6)]
    # A glob names a part only: what begins or ends alike is near, too.
    close += [name for text in literals if len(text) > 2 for name in known if text.strip("-._") in name]
    shown = list(dict.fromkeys(close))[:_SHOWN]
    return f"; nearest: {', '.join(shown)}" if shown else ""
