"""The run that writes to a mirror now, from the file that `quaymirror watch` reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from ..errors import QuaymirrorError
from ..events import Status
from ..run.past_runs import PROGRESS_FILE
from ..store.fsops import read_file
from ..text import human_duration
from ..ui.descriptions import describe
from ..ui.lines import progress_text
from ..ui.snapshot import Snapshot, SnapshotError, read_snapshot

_MAX_BYTES = 16 * 1024 * 1024
# After this time without a new snapshot the run has ended, or was killed.
_SILENCE_SECONDS = 15.0
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as a page shows it: `state` is `running`, `ended`, `failed`, `silent` or `none`."""

    mirror: str
    state: str
    text: str = ""
    start: str = ""
    started: float = 0.0
    done: int = 0
    total: int = 0
    numbers: tuple[tuple[str, int], ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def percent(self) -> int:
        """The share of the known images that is done."""
        return min(100, self.done * 100 // self.total) if self.total else 0


class LiveRun:
    """The run of the mirror in the directory `mirror`."""

    def __init__(self, mirror: Path, *, now: Callable[[], float] = time.time) -> None:
        self._mirror = str(mirror)
        self._file = mirror / ".quaymirror" / PROGRESS_FILE
        self._now = now
        self._read_at = 0.0
        self._state = RunState(str(mirror), "none")

    async def current(self) -> RunState:
        """Return the state of the run; the file is read at most once per second."""
        now = self._now()
        if not 0 <= now - self._read_at < _FRESH_SECONDS:
            self._read_at = now
            self._state = await anyio.to_thread.run_sync(self._read)

        return self._state

    def _read(self) -> RunState:
        try:
            content = read_file(self._file, _MAX_BYTES)
            snapshot = read_snapshot(content) if content is not None else None
        except (QuaymirrorError, SnapshotError):
            return RunState(self._mirror, "none", "the progress of the last run can't be read")

        return RunState(self._mirror, "none") if snapshot is None else self._shown(snapshot)

    def _shown(self, snapshot: Snapshot) -> RunState:
        progress, age = snapshot.progress, self._now() - snapshot.time
        text = progress_text(progress, snapshot.speeds, snapshot.clock)
        state = "running"
        if progress.finished is not None:
            state = "failed" if snapshot.exit_code else "ended"
            text = f"ended {human_duration(age)} ago with exit code {snapshot.exit_code}: {text}"
        elif age > _SILENCE_SECONDS:
            state, text = "silent", f"no sign of life for {human_duration(age)}: it has ended, or was killed"

        images = progress.images
        # Most runs have no signature policy.
        shown = [status for status in Status if status is not Status.REFUSED or progress.refused]
        return RunState(
            self._mirror,
            state,
            text,
            describe(progress.run)[1] if progress.run is not None else "",
            progress.run.started if progress.run is not None else 0.0,
            sum(images.values()),
            max(progress.queued, progress.tags_expected, sum(images.values())),
            tuple((status.value, progress.count(status)) for status in shown),
            tuple((failure.name, str(failure)) for failure in progress.last_failures),
            tuple(progress.last_notices),
        )
