"""Reading the tags of one repository that a glob matches."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ...errors import Unavailable
from ...oci import Digest
from ..base import Tag, TagList
from .api import QuayAPI

# A list that never ends is an error instead of a full memory.
_MAX_PAGES = 500
_MAX_TAGS = 50_000
_MAX_READINGS = 4
_LITERAL = re.compile(r"[A-Za-z0-9._-]+")
_BRACKETS = re.compile(r"\[[^]]*\]")


async def matching_tags(api: QuayAPI, repository: str, glob: str) -> TagList:
    """Return the living tags of `repository` (with its organization) that `glob` matches, each once.

    It takes one request per hundred tags that hold the longest literal part of `glob`. A list of several pages is read
    again until two readings agree: Quay pages by offset, so a tag that is deleted or moved meanwhile hides another one.

    :raises Unavailable: if the list does not end, or changes with every reading.
    :raises QuaymirrorError: as `QuayAPI.tag`.
    """
    before: _Reading | None = None
    for _ in range(_MAX_READINGS):
        reading = await _read(api, repository, glob)
        if reading.is_atomic or (before is not None and reading.digests == before.digests):
            return TagList(tuple(reading.tags.values()), tuple(reading.rejected))

        before = reading

    raise Unavailable(f"{repository}: the list of its tags changed {_MAX_READINGS} times while it was read")


@dataclass(slots=True)
class _Reading:
    """One reading of a repository's tags, atomic if it took a single page."""

    tags: dict[str, Tag] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    is_atomic: bool = True

    @property
    def digests(self) -> dict[str, Digest]:
        return {name: tag.digest for name, tag in self.tags.items()}


async def _read(api: QuayAPI, repository: str, glob: str) -> _Reading:
    reading = _Reading()
    for number in range(1, _MAX_PAGES + 1):
        page = await api.tags(repository, _literal_part(glob), number)
        # A tag that moves between two pages comes twice: the first is the newer.
        reading.tags = {tag.name: tag for tag in page.tags if fnmatchcase(tag.name, glob)} | reading.tags
        reading.rejected += page.rejected
        if len(reading.tags) + len(reading.rejected) > _MAX_TAGS:
            break

        if not (page.has_more and (page.tags or page.rejected)):
            return reading

        reading.is_atomic = False

    raise Unavailable(f"{repository}: the list of its tags does not end")


def _literal_part(glob: str) -> str:
    """Return the longest text that every match of `glob` holds."""
    return max(_LITERAL.findall(_BRACKETS.sub("*", glob)), key=len, default="")
