"""Reading the tags of one repository that a glob matches."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ...errors import Unavailable
from ...selection.grammar import literal_parts
from ..base import Tag, TagList
from .api import QuayAPI

# A list that never ends is an error instead of a full memory.
_MAX_PAGES = 500
_MAX_TAGS = 50_000
_MAX_READINGS = 4


async def matching_tags(api: QuayAPI, repository: str, glob: str, *, patient: bool = True) -> TagList:
    """Return the living tags of `repository` (with its organization) that `glob` matches, each once.

    It takes one request per hundred tags that hold the longest literal part of `glob`. A list of several pages is read
    again until two readings agree: Quay pages by offset, so a tag that is deleted or moved meanwhile hides another one.

    :raises Unavailable: if the list does not end, or changes with every reading.
    :raises QuaymirrorError: as `QuayAPI.tag`; RateLimited for the first page unless `patient`.
    """
    before = None
    for _ in range(_MAX_READINGS):
        reading, is_atomic = await _read(api, repository, glob, patient=patient)
        digests = {tag.name: tag.digest for tag in reading.tags}
        if is_atomic or digests == before:
            return reading

        before = digests

    raise Unavailable(f"{repository}: the list of its tags changed {_MAX_READINGS} times while it was read")


async def _read(api: QuayAPI, repository: str, glob: str, *, patient: bool) -> tuple[TagList, bool]:
    """Return the tags, and True if a single page has all of them."""
    part = max(literal_parts(glob), key=len, default="")
    tags: dict[str, Tag] = {}
    rejected: list[str] = []
    for number in range(1, _MAX_PAGES + 1):
        page = await api.tags(repository, part, number, patient=patient or number > 1)
        # A tag that moves between two pages comes twice: the first is the newer.
        tags = {tag.name: tag for tag in page.tags if fnmatchcase(tag.name, glob)} | tags
        rejected += page.rejected
        if len(tags) + len(rejected) > _MAX_TAGS:
            break

        if not (page.has_more and (page.tags or page.rejected)):
            return TagList(tuple(tags.values()), tuple(rejected)), number == 1

    raise Unavailable(f"{repository}: the list of its tags does not end")
