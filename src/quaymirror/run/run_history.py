"""What a run remembers of earlier ones, and leaves to later ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread

from ..discovery.tag_cache import TagCache
from ..documents import ReportJson
from ..errors import StoreError
from ..events import Notice, Observer, Status
from ..selection.selection import Selection
from ..settings import Options
from ..store.history import History
from ..store.records import PastRun
from .report import Report, selection_json


@dataclass(slots=True)
class RunMemory:
    """The open history of a target. `tags` is for discovery, `earlier` the report to compare with, if there is one."""

    tags: TagCache
    earlier: ReportJson | None
    _history: History
    _subject: str
    _observer: Observer
    _read_only: bool = False

    async def keep_tags(self) -> None:
        """Write down what was learnt of tags so far.

        :raises StoreError: when the disk refuses.
        """
        new = self.tags.take_new()
        if not self._read_only:
            await anyio.to_thread.run_sync(self._history.learn, new)

    async def record(self, report: Report) -> None:
        """Write down the run. That it can't be is worth a line, and no reason to call the run failed."""
        if self._read_only:
            return

        run = PastRun(
            id=report.run_id,
            subject=self._subject,
            started=report.started,
            elapsed=report.elapsed,
            exit_code=int(report.exit_code),
            # What could not be checked may be there: such a run is nothing to compare another one with.
            complete=report.is_whole,
            images={status.value: report.counts[status] for status in Status},
            bytes_fetched=report.bytes_fetched,
        )
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._history.record, run, report.to_json())
        except StoreError as error:
            self._observer(Notice(f"this run is not in the history: {error.message}"))


@asynccontextmanager
async def open_memory(
    home: Path, selections: Sequence[Selection], settings: Options, observer: Observer
) -> AsyncIterator[RunMemory]:
    """Open the memory of the target whose own directory is `home`; for a dry run only to look.

    :raises ConfigError: when a newer quaymirror wrote it.
    :raises StoreError: when the disk refuses.
    """

    subject = _subject(selections, settings)

    def load() -> tuple[History, str | None]:
        return History.open(home, read_only=settings.target.dry_run)

    history, notice = await anyio.to_thread.run_sync(load)
    try:
        if notice:
            observer(Notice(f"{notice}; every tag is checked again"))

        checks = await anyio.to_thread.run_sync(history.tags, settings.source.origin.netloc)
        # Reports of earlier versions have the same outcomes.
        earlier = cast("ReportJson | None", await anyio.to_thread.run_sync(history.last_complete, subject))
        tags = TagCache(checks, full_check_seconds=settings.discovery.full_check_every)
        yield RunMemory(tags, earlier, history, subject, observer, settings.target.dry_run)
    finally:
        history.close()


def _subject(selections: Sequence[Selection], settings: Options) -> str:
    """The text by which runs of the same selections from the same server find each other."""
    first, *more = map(selection_json, selections)
    subject = {"server": str(settings.source.origin), "selection": first} | ({"more": more} if more else {})
    return json.dumps(subject, sort_keys=True)
