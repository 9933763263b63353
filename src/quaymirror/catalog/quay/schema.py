"""Answers of Quay's REST API as values: pure parsing of what may be anything.

Quay answers 200 to much that is no success (`{"error": …}`, a proxy's HTML), so the shape decides, not the status.
Fields that we don't know are nobody's business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidName, Unavailable
from ...oci import Digest
from ...oci.reference import is_repository_name, is_tag

# Seconds since 1970 that make sense for a tag: a value in milliseconds, or none at all, is "unknown", never "old".
_LATEST = 2**33
# Quay sends 100 at most. A page of a few megabytes could hold a million, each of them a line in a log.
_MAX_ENTRIES = 10_000
# Quay's are 190 characters. It becomes part of a URL, of which its gunicorn takes 4 KiB.
_MAX_PAGE_TOKEN = 2_048
# What a database still takes for a number of bytes.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """One repository of a listing. `name` has no organization; `last_modified` is POSIX time, None where not known.

    `has_tags` is false when Quay says that no tag is alive.
    """

    name: str
    last_modified: int | None
    has_tags: bool
    seen_by_token: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing. `rejected` describes entries that can't be right; `next_page` is None on the last one.

    `at` is the server's own time (POSIX) when it answered, None where it did not say.
    """

    repositories: tuple[ListedRepository, ...]
    rejected: tuple[str, ...]
    next_page: str | None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """A living tag. `size` is in bytes, None for an index.

    `start` and `expires` are POSIX times, None where not known, or where it never expires.
    """

    name: str
    digest: Digest
    start: int | None
    size: int | None
    expires: int | None = None


def parse_page(body: bytes, organization: str, *, at: int | None = None) -> Page:
    """Return one page of `organization`'s repositories, which the server sent `at` this time of its own.

    An entry that makes no sense is rejected by itself; a page that makes none is no page.

    :raises Unavailable: when it is not a listing at all, or has more entries than any page.
    """
    document = _object(body)
    entries = _entries(document, "repositories")
    next_page = document.get("next_page")
    if entries is None or not (next_page is None or (isinstance(next_page, str) and next_page)):
        raise Unavailable("the API's answer is not a list of repositories")

    if next_page is not None and len(next_page) > _MAX_PAGE_TOKEN:
        raise Unavailable(f"the API's next page has a name of {len(next_page):,} characters")

    parsed = [_repository(entry, organization) for entry in entries]
    return Page(
        repositories=tuple(entry for entry in parsed if isinstance(entry, ListedRepository)),
        rejected=tuple(entry for entry in parsed if isinstance(entry, str)),
        next_page=next_page,
        at=at,
    )


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a repository's tags, and whether more follow; `rejected` and `at` as in `Page`."""

    tags: tuple[Tag, ...]
    has_more: bool
    at: int | None = None
    rejected: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there was not even an entry that makes no sense."""
        return not self.tags and not self.rejected


def parse_tags(body: bytes, *, at: int | None = None) -> TagPage:
    """Return the tags of an answer, which the server sent `at` this time of its own.

    An entry whose name can't be a tag's is rejected by itself.

    :raises Unavailable: when it is not a list of tags, one of them is without a digest, or there are more than on any
        page.
    """
    document = _object(body)
    entries = _entries(document, "tags")
    if entries is None or not all(isinstance(entry, dict) for entry in entries):
        raise Unavailable("the API's answer is not a list of tags")

    parsed = [_tag(entry) for entry in entries]
    return TagPage(
        tags=tuple(entry for entry in parsed if isinstance(entry, Tag)),
        has_more=document.get("has_additional") is True,
        at=at,
        rejected=tuple(entry for entry in parsed if isinstance(entry, str)),
    )


def _entries(document: dict[str, Any], key: str) -> list[Any] | None:
    entries = document.get(key)
    if not isinstance(entries, list):
        return None

    if len(entries) > _MAX_ENTRIES:
        raise Unavailable(f"the API's answer has {len(entries):,} {key}; the limit of a page is {_MAX_ENTRIES:,}")

    return entries


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Unavailable("the API's answer is not JSON") from None

    if not isinstance(document, dict):
        raise Unavailable("the API's answer is not an object")

    return document


def _repository(entry: object, organization: str) -> ListedRepository | str:
    """A repository, or what is wrong with the entry."""
    if not isinstance(entry, dict):
        return "an entry that is not an object"

    name, namespace = entry.get("name"), entry.get("namespace", organization)
    if not isinstance(name, str) or not is_repository_name(f"{organization}/{name}"):
        return f"not a repository name: {str(name)[:100]!r}"

    if namespace != organization:
        return f"{name!r} of another organization, {str(namespace)[:100]!r}"

    return ListedRepository(
        name=name,
        last_modified=_time(entry.get("last_modified")),
        has_tags=entry.get("last_modified", 0) is not None,
        seen_by_token="is_starred" in entry,
    )


def _tag(entry: dict[str, Any]) -> Tag | str:
    """A tag, or what is wrong with the entry."""
    name, size = entry.get("name"), entry.get("size")
    if not isinstance(name, str) or not is_tag(name):
        return f"a tag with an impossible name, {str(name)[:100]!r}"

    try:
        digest = Digest.parse(str(entry.get("manifest_digest")))
    except InvalidName:
        raise Unavailable("the API's answer has a tag without a digest") from None

    return Tag(
        name=name,
        digest=digest,
        start=_time(entry.get("start_ts")),
        size=size if type(size) is int and 0 <= size <= _LARGEST else None,
        expires=_time(entry.get("end_ts")),
    )


def _time(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _LATEST else None
