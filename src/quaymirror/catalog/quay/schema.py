"""Answers of Quay's REST API as values: pure parsing of untrusted documents.

Quay answers 200 to many failures (`{"error": …}`, a proxy's HTML), so the shape decides, not the status. Unknown fields
are ignored.
"""

from __future__ import annotations

from typing import Any

from ...errors import InvalidName, Unavailable
from ...oci import Digest
from ...oci.reference import is_repository_name, is_tag
from ...untrusted import InvalidDocument, parse_object
from ...values import dataclass
from ..base import ListedRepository, Page, Tag, TagList

MAX_ANSWER = 8 * 1024 * 1024
# Seconds since 1970 that are plausible for a tag: a value in milliseconds, or no value, is "unknown", never "old".
_LATEST = 2**33
# Quay sends 100 at most. A page of a few megabytes could hold a million, each of them a line in a log.
_MAX_ENTRIES = 10_000
# Quay's have 190 characters. It becomes part of a URL, of which its gunicorn takes 4 KiB.
_MAX_CURSOR = 2_048
# The largest number of bytes that a database takes.
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ListingPage(Page):
    """One page of Quay's listing. `seen_by_token` is True if an entry shows that the server knows our token.

    `public` are the names of repositories that need no token.
    """

    seen_by_token: bool = False
    public: frozenset[str] = frozenset()


def parse_page(body: bytes, organization: str, *, at: int | None = None) -> ListingPage:
    """Return one page of `organization`'s repositories; `at` is the server's time of the answer.

    Invalid entries are rejected one by one.

    :raises Unavailable: if it is not a listing, or has more entries than any page.
    """
    document, entries = _document(body, "repositories")
    cursor = document.get("next_page")
    if not (cursor is None or (isinstance(cursor, str) and cursor)):
        raise Unavailable("the API's answer is not a list of repositories")

    if cursor is not None and len(cursor) > _MAX_CURSOR:
        raise Unavailable(f"the API's next page has a name of {len(cursor):,} characters")

    parsed = [_repository(entry, organization) for entry in entries]
    return ListingPage(
        repositories=tuple(entry for entry in parsed if isinstance(entry, ListedRepository)),
        rejected=tuple(entry for entry in parsed if isinstance(entry, str)),
        cursor=cursor,
        at=at,
        # Quay adds is_starred only for clients that it knows (endpoints/api/repository).
        seen_by_token=any(isinstance(entry, dict) and "is_starred" in entry for entry in entries),
        public=frozenset(
            known.name
            for entry, known in zip(entries, parsed, strict=True)
            if isinstance(known, ListedRepository) and entry.get("is_public") is True
        ),
    )


@dataclass(frozen=True, slots=True)
class TagPage(TagList):
    """One page of a repository's tags; `has_more` is True if another follows, `at` is as in `Page`."""

    has_more: bool = False
    at: int | None = None


def parse_tags(body: bytes, *, at: int | None = None) -> TagPage:
    """Return the tags of an answer; `at` is the server's time of the answer.

    Entries whose name can't be a tag's are rejected one by one.

    :raises Unavailable: if it is not a list of tags, a tag has no digest, it has more tags than any page, or none
        although it says that there are more.
    """
    document, entries = _document(body, "tags")
    if not all(isinstance(entry, dict) for entry in entries):
        raise Unavailable("the API's answer is not a list of tags")

    if not entries and document.get("has_additional") is True:
        raise Unavailable("the API's answer has no tags, and says that there are more")

    parsed = [_tag(entry) for entry in entries]
    return TagPage(
        tags=tuple(entry for entry in parsed if isinstance(entry, Tag)),
        rejected=tuple(entry for entry in parsed if isinstance(entry, str)),
        has_more=document.get("has_additional") is True,
        at=at,
    )


def _document(body: bytes, key: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the document in `body`, and the list that it has under `key`."""
    try:
        document = parse_object(body, limit=MAX_ANSWER, nan_is_text=True)
    except InvalidDocument as error:
        raise Unavailable(f"the API's answer {error}") from None

    entries = document.get(key)
    if not isinstance(entries, list):
        raise Unavailable(f"the API's answer is not a list of {key}")

    if len(entries) > _MAX_ENTRIES:
        raise Unavailable(f"the API's answer has {len(entries):,} {key}; the limit of a page is {_MAX_ENTRIES:,}")

    return document, entries


def _repository(entry: object, organization: str) -> ListedRepository | str:
    """Return a repository, or the reason to reject the entry."""
    if not isinstance(entry, dict):
        return "an entry that is not an object"

    name, namespace = entry.get("name"), entry.get("namespace", organization)
    if not isinstance(name, str) or not is_repository_name(f"{organization}/{name}"):
        return f"not a repository name: {str(name)[:100]!r}"

    if namespace != organization:
        return f"{name!r} of another organization, {str(namespace)[:100]!r}"

    # The newest start of its living tags: as long as it is the same, none of them has moved.
    modified = _time(entry.get("last_modified"))
    return ListedRepository(name, modified, modified, has_tags=entry.get("last_modified", 0) is not None)


def _tag(entry: dict[str, Any]) -> Tag | str:
    """Return a tag, or the reason to reject the entry."""
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
        is_index=is_index if isinstance(is_index := entry.get("is_manifest_list"), bool) else None,
        is_sparse=entry.get("is_sparse") is True,
    )


def _time(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _LATEST else None
