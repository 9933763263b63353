"""Plans for shards."""

from __future__ import annotations

from typing import Annotated, NotRequired

from .common import SelectionJson, Time, TypedDict
from .lock import LockedReferrerJson
from .report import ContentJson, OutcomeJson, RepositoriesJson, UnmatchedJson

PLAN_VERSION = 1


class PlannedImageJson(TypedDict):
    """An image of a plan. `blobs` are places in those of the plan, null if they are not known.

    `mirrored`: the target had it when the plan was made. `source` is an address of another source than `server`.
    `referrers` are those of a lock file.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str
    blobs: list[int] | None
    mirrored: NotRequired[bool]
    sparse: NotRequired[bool]
    source: NotRequired[str]
    referrers: NotRequired[list[LockedReferrerJson]]


class PlanJson(TypedDict):
    """A plan for shards. `exit_code` is how the discovery ended, without the images; `run_id` is that of the planning.

    `platforms` and `renames` are the options that every shard has to have in common.
    """

    plan_version: Annotated[int, PLAN_VERSION]
    run_id: str
    created: Time
    server: str
    selections: list[SelectionJson]
    platforms: list[str]
    renames: list[str]
    exit_code: int
    repositories: RepositoriesJson
    unmatched: list[UnmatchedJson]
    failed_checks: list[OutcomeJson]
    blobs: list[ContentJson]
    images: list[PlannedImageJson]
