"""Lock files."""

from __future__ import annotations

from typing import Annotated, NotRequired

from .common import TypedDict

LOCK_VERSION = 1


class LockedReferrerJson(TypedDict):
    """A manifest that belongs to `subject`; `tag` is the digest tag that leads to it."""

    subject: str
    digest: str
    artifact_type: str
    tag: NotRequired[str]


class LockedImageJson(TypedDict):
    """The digest of a tag, and the referrers that the target has of the image; without these, they are not known."""

    repository: str
    tag: str
    digest: str
    referrers: NotRequired[list[LockedReferrerJson]]


class LockJson(TypedDict):
    """A lock file: the digests that the selected tags of a server had, for `platforms` if some were chosen."""

    lock_version: Annotated[int, LOCK_VERSION]
    server: str
    images: list[LockedImageJson]
    platforms: NotRequired[list[str]]
