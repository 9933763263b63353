"""The report of a run, and what shards add to it.

`REPORT_VERSION` is raised with every change that a reader of the report could notice, except for additional fields.
"""

from __future__ import annotations

from typing import Annotated, NotRequired

from ..events import Status
from .common import ErrorJson, SelectionJson, Time, TypedDict

REPORT_VERSION = 2


class RepositoriesJson(TypedDict):
    """Repositories: on the listing, matched by name, unreadable entries, and skipped ones by reason."""

    listed: int
    matched: int
    rejected: int
    skipped: dict[str, int]


class ImagesJson(TypedDict):
    """Images by outcome; repositories without the tag count as skipped. A signature policy refuses images."""

    mirrored: int
    unchanged: int
    skipped: int
    failed: int
    refused: int


class HostJson(TypedDict):
    """Retries and rate limits of a host; `throttled` counts 429s, and 503s with Retry-After. Times are in seconds."""

    retries: int
    retry_wait_s: float
    throttled: int
    pauses: int
    paused_s: float


class ChangesJson(TypedDict):
    """The differences to the last complete run of the same selections, which is `since` and found `before` images."""

    since: str
    started: Time
    before: int
    came: list[str]
    gone: list[str]
    moved: list[str]


class UnmatchedJson(TypedDict):
    """A name of the selection without wildcard that matched nothing, and the nearest existing ones."""

    name: str
    nearest: list[str]


class OutcomeJson(TypedDict):
    """The outcome of one image, `registry/repository:tag`. The digest is null if it is not known.

    Derived images have `findings`: those of the check of the result. `referrers` is the number of signatures and other
    referrers that this run found and that are at the target; `referrer_errors` are those of others, which the next run
    tries again. `accepted` is true for images whose failure is accepted.
    """

    reference: str
    digest: str | None
    status: Annotated[str, Status]
    reason: str | None
    bytes_fetched: int
    bytes_reused: int
    elapsed_s: float
    error: ErrorJson | None
    findings: NotRequired[list[str]]
    referrers: NotRequired[int]
    referrer_errors: NotRequired[list[str]]
    accepted: NotRequired[bool]


class UsageJson(TypedDict):
    """The space that a target takes: its images, the bytes of their content, and the free bytes of its disk."""

    images: int
    bytes: int
    free_bytes: int | None


class WorkerJson(TypedDict):
    """The blobs that one worker of a cluster brought, their bytes from the source, and the seconds that they took."""

    blobs: int
    bytes_fetched: int
    busy_s: float


class ContentJson(TypedDict):
    """A blob or a manifest."""

    mediaType: str  # noqa: N815 - the name in descriptors
    digest: str
    size: int


class PushedImageJson(TypedDict):
    """An image that a shard committed: places in `contents` of its root and of everything that it needs."""

    name: str
    registry: str
    source: str
    platforms: str
    mirrored: float
    root: int
    needs: list[int]


class PushedJson(TypedDict):
    """The images that a shard pushed, as `merge-reports --state` records them."""

    contents: list[ContentJson]
    images: list[PushedImageJson]


class ShardJson(TypedDict):
    """The part of a report that only shards have: shard `index` of `count` of the run that the plan was made by.

    `images` are those of the whole plan; `plan_exit_code` and the lists after it say how its discovery ended.
    """

    plan: str
    server: str
    selections: list[SelectionJson]
    index: int
    count: int
    images: int
    plan_exit_code: int
    failed_checks: list[OutcomeJson]
    unmatched: list[UnmatchedJson]
    repositories: RepositoriesJson
    pushed: PushedJson


class ReportJson(TypedDict):
    """The report of one run.

    `selection` is null for several selections; `complete` is true if everything selected was found and
    processed; `error` ended the run early, `stopped` is the reason of a requested stop. `bytes_fetched` are all
    received bytes, those of failed attempts and images included, in a dry run the ones that would be fetched;
    `bytes_reused` are those that images needed and did not fetch. `usage` is that of the target after the run, null if
    it is not known. Tags of `moved_in_run` moved during the run; those of `left_moved` had moved again at its end, so
    that the set is not consistent. `workers` are those of a cluster, by their addresses. `outcomes` are sorted by
    reference.
    """

    schema_version: Annotated[int, REPORT_VERSION]
    run_id: str
    jobs: list[str]
    selection: SelectionJson | None
    selections: list[SelectionJson]
    server: str
    target: str
    dry_run: bool
    started: Time
    elapsed_s: float
    complete: bool
    exit_code: int
    error: ErrorJson | None
    stopped: str | None
    repositories: RepositoriesJson
    images: ImagesJson
    bytes_fetched: int
    bytes_reused: int
    unmatched: NotRequired[list[UnmatchedJson]]
    hosts: dict[str, HostJson]
    changes: ChangesJson | None
    usage: UsageJson | None
    moved_in_run: NotRequired[list[str]]
    left_moved: NotRequired[list[str]]
    shard: NotRequired[ShardJson]
    workers: NotRequired[dict[str, WorkerJson]]
    outcomes: list[OutcomeJson]


class ReportsJson(TypedDict):
    """The reports of several runs of one command."""

    schema_version: Annotated[int, REPORT_VERSION]
    runs: list[ReportJson]
