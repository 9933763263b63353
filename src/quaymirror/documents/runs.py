"""Past runs, the jobs of `status --json`, and notifications."""

from __future__ import annotations

from typing import NotRequired

from .common import SelectionJson, Time, TypedDict
from .report import ImagesJson, UsageJson


class ChangeCountsJson(TypedDict):
    """Numbers of images that are new, have moved to another digest, or are missing at the source."""

    new: int
    moved: int
    missing: int


class PastRunJson(TypedDict):
    """A run of `history --json`; `selection` is the first selection, `more` has the others.

    `kind` is "sync" or "prune"; a prune has no server and selection. The exit code of a run that was killed, or has not
    ended yet, is null. `changes` are those since the last complete run, `usage` is that of the target after the run,
    and `remark` the first problem, or what a prune did. With `--config`, each run has its `target`.
    """

    id: str
    kind: str
    jobs: list[str]
    started: Time
    elapsed: float
    exit_code: int | None
    complete: bool
    images: ImagesJson
    bytes_fetched: int
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    remark: str
    target: NotRequired[str]
    server: NotRequired[str]
    selection: NotRequired[SelectionJson]
    more: NotRequired[list[SelectionJson]]


class JobStatusJson(TypedDict):
    """A job of `status --json`. Ages are in seconds; null: it never ran, or never succeeded.

    `state` is "ok", "failed", "killed", "running" or "never ran". `problem` is the first thing to look at, "" if none.
    """

    job: str
    target: str
    state: str
    last_run: Time | None
    last_success: Time | None
    age: float | None
    exit_code: int | None
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    problem: str


class NotifiedRunJson(TypedDict):
    """A run of a notification; `problem` is the first thing to look at, "" if none. See `ReportJson`."""

    run_id: str
    jobs: list[str]
    server: str
    target: str
    dry_run: bool
    started: Time
    elapsed_s: float
    exit_code: int
    complete: bool
    images: ImagesJson
    bytes_fetched: int
    bytes_reused: int
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    problem: str


class NotificationJson(TypedDict):
    """The standard input of --notify-command. `result` is the meaning of the exit code.

    `error` ended the command before it had a report, null if none did.
    """

    exit_code: int
    result: str
    error: str | None
    runs: list[NotifiedRunJson]
