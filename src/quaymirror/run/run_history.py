"""The history of a target during a run: it provides earlier tag checks and reports, and records the run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread

from ..discovery.label_verdicts import LabelVerdicts
from ..discovery.tag_cache import TagCache
from ..documents.common import SelectionJson
from ..documents.report import ReportJson
from ..errors import StoreError
from ..events import Notice, Observer, Status
from ..selection.selection import Selection
from ..settings import Options
from ..store import fsops
from ..store.history import History
from ..store.records import PastRun
from ..values import dataclass
from .context import Run
from .report import Report, selection_json


@dataclass(slots=True)
class RunHistory:
    """The open history of a target.

    `tags` is the cache for discovery, `labels` has the verdicts on labels, `earlier` is the report to compare with.
    """

    tags: TagCache
    labels: LabelVerdicts
    earlier: ReportJson | None
    _history: History
    _subject: str
    _observer: Observer
    _keep_seconds: float
    _read_only: bool = False
    _keeps_tags: bool = True

    async def save_tags(self) -> None:
        """Store the new tag checks and verdicts on labels.

        :raises StoreError: if the disk fails.
        """
        new, verdicts = self.tags.take_new(), self.labels.take_new()
        if self._keeps_tags:
            await anyio.to_thread.run_sync(self._history.learn, new)
            if verdicts:
                await anyio.to_thread.run_sync(self._history.learn_labels, verdicts)

    async def begin(self, run: Run) -> None:
        """Store that `run` has begun, so that the history shows it even if it is killed.

        :raises StoreError: if the disk fails.
        """
        if not self._read_only:
            past = PastRun(run.run_id, self._subject, run.started, 0.0, 0, False, {}, 0, jobs=run.jobs)
            await anyio.to_thread.run_sync(self._history.begin, past)

    async def record(self, report: Report) -> None:
        """Store the run. A failure is reported, but does not fail the run."""
        if self._read_only:
            return

        run = PastRun(
            id=report.run_id,
            subject=self._subject,
            started=report.started,
            elapsed=report.elapsed,
            exit_code=int(report.exit_code),
            # Images that could not be checked may exist: another run can't be compared with such a run.
            complete=report.is_whole,
            images={status.value: report.counts[status] for status in Status},
            bytes_fetched=report.bytes_fetched,
            jobs=tuple(report.jobs),
            changes=report.change_counts,
            usage=report.usage,
            remark=report.first_problem,
        )
        record = partial(self._history.record, run, report.to_json(), keep_seconds=self._keep_seconds)
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(record)
        except StoreError as error:
            self._observer(Notice(f"this run is not in the history: {error.message}"))


@asynccontextmanager
async def open_history(
    home: Path, selections: Sequence[Selection], options: Options, observer: Observer, *, keeps_tags: bool = False
) -> AsyncIterator[RunHistory]:
    """Open the history of the target whose state directory is `home`.

    A dry run is not recorded; it stores its tag checks only if it `keeps_tags`.

    :raises ConfigError: if a newer quaymirror wrote it.
    :raises StoreError: if the disk fails.
    """
    read_only, subject = options.target.dry_run, subject_of(selections, options)
    keeps_tags = keeps_tags or not read_only
    if keeps_tags:
        fsops.make_directory(home)

    history, notice = await anyio.to_thread.run_sync(partial(History.open, home, read_only=not keeps_tags))
    try:
        if notice:
            observer(Notice(f"{notice}; every tag is checked again"))

        subjects = {(options.source.address_of(each).registry_name, _selected(each)) for each in selections}
        checks = [check for one in sorted(subjects) for check in await anyio.to_thread.run_sync(history.tags, *one)]
        # Reports of earlier versions have the same outcomes.
        earlier = cast("ReportJson | None", await anyio.to_thread.run_sync(history.last_complete, subject))
        tags = TagCache(checks, full_check_seconds=options.discovery.full_check_every)
        has_labels = any(selection.labels for selection in selections)
        labels = LabelVerdicts(await anyio.to_thread.run_sync(history.label_verdicts) if has_labels else ())
        age = options.target.report_age
        yield RunHistory(tags, labels, earlier, history, subject, observer, age, read_only, keeps_tags)
    finally:
        history.close()


def _selected(selection: Selection) -> str:
    """Return a common start of the names of all repositories that can be selected."""
    is_one = selection.is_one_repository and not selection.exact and not selection.pinned
    return selection.prefix + (selection.globs[0] if is_one else "")


def subject_of(selections: Sequence[Selection], options: Options) -> str:
    """Return the text that is the same for runs of the same selections from the same sources."""
    return subject_text(str(options.source.origin), [selection_json(selection) for selection in selections])


def subject_text(server: str, selections: Sequence[SelectionJson]) -> str:
    """Return the subject of runs of `selections`, in their JSON form, with `server` in their options."""
    first, *more = selections
    subject = {"server": server, "selection": first} | ({"more": more} if more else {})
    return json.dumps(subject, sort_keys=True)
