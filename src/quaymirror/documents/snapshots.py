"""Snapshots, their differences, and held names."""

from __future__ import annotations

import typing

from .common import Time, TypedDict


class SnapshotJson(TypedDict):
    """A snapshot of `snapshots --json`. `own_bytes` are those that nothing else needs.

    `content_removed` is the time when retention gave up its content, null while it is kept; `complete` is false if the
    run did not mirror everything.
    """

    id: str
    created: Time
    images: int
    bytes: int
    own_bytes: int
    cause: str
    run: str | None
    label: str | None
    protected: bool
    complete: bool
    content_removed: Time | None


class SnapshotIdJson(TypedDict):
    """The id of a snapshot, and when it was made."""

    id: str
    created: Time


DiffJson = typing.TypedDict(
    "DiffJson",
    {
        "from": SnapshotIdJson | None,
        "to": SnapshotIdJson | None,
        "came": list[str],
        "moved": list[str],
        "gone": list[str],
    },
)
"""The differences between two snapshots, or a mirror and its source (null); names are `repository:tag`."""


class HoldJson(TypedDict):
    """A held name of `hold --json`."""

    name: str
    reason: str
    since: Time
