"""The images and blobs that `prune --json` and `remove --json` remove."""

from __future__ import annotations

from typing import NotRequired

from .common import BlobsJson, FilesJson, Time, TypedDict


class GoneJson(TypedDict):
    """An image that is gone from the source since a POSIX time. `doubt` is the reason to keep it, if any."""

    name: str
    digest: str
    gone_since: float
    doubt: NotRequired[str | None]


class OrphanJson(TypedDict):
    """A blob that no image needs."""

    digest: str
    size: int


class DroppedSnapshotJson(TypedDict):
    """A snapshot whose content retention gives up, and the bytes that go with it, at once or later."""

    id: str
    created: Time
    freed_bytes: int


class RetentionJson(TypedDict):
    """The number of snapshots whose content is kept, and those whose content is not."""

    kept: int
    drop: list[DroppedSnapshotJson]


class LostReferrerJson(TypedDict):
    """A referrer that the source does not have any more, and the digest it belongs to."""

    subject: str
    digest: str


class PruneJson(TypedDict):
    """The plan of `prune --json`: images to untag and to keep for now, blobs to remove now and later.

    `referrers` are signatures and the like that are missing at the source, while their images are not.
    """

    untag: list[GoneJson]
    waiting: list[GoneJson]
    remove: list[OrphanJson]
    later: BlobsJson
    partials: FilesJson
    freed_bytes: int
    kept_for_imports_bytes: int
    referrers: list[LostReferrerJson]
    snapshots: RetentionJson


class RemovalJson(TypedDict):
    """The images of `remove --json`: those that are removed, or would be, and those that jobs would mirror again.

    `snapshot` is the id of the snapshot with the rest, null if nothing was removed.
    """

    removed: list[str]
    mirrored_again: list[str]
    snapshot: str | None


class ForgottenJson(TypedDict):
    """An image that a registry has lost, or a referrer that only the source has lost.

    `reason` is why its record is kept, null if it is forgotten.
    """

    name: str
    digest: str
    reason: str | None
