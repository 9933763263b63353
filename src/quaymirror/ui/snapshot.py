"""The progress of a run as JSON, for `watch` in another process, and back.

Its size is bounded, as the progress is. Its times are those of the run's monotonic clock, which `clock` relates to
`time` (POSIX).
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any, get_type_hints

from ..errors import ExitCode
from ..progress.meters import Meter, Meters
from ..progress.rates import Speeds
from ..progress.run import RunProgress
from ..untrusted import parse_object
from ..values import dataclass
from .jsonl import members, to_json
from .validation import built, expect_printable, parsed

VERSION = 4
_MAX_BYTES = 16 * 1024 * 1024
# Results, which have no bounded size, and fields that only the run itself needs.
_OWN = {"clock", "meters", "outcomes", "failed_checks", "findings", "moved_in_run", "left_moved"}


@functools.cache
def progress_fields() -> dict[str, Any]:
    """Return the types of the fields of a progress that a snapshot has."""
    return {name: hint for name, hint in get_type_hints(RunProgress).items() if name not in _OWN}


class SnapshotError(ValueError):
    """A file that is no snapshot of this version."""


@dataclass(frozen=True, slots=True)
class SnapshotDocument:
    """The parts of a snapshot beside the progress itself; `fetched_bytes` and `in_flight` are its meters."""

    snapshot_version: int
    time: float
    clock: float
    fetched_bytes: int
    in_flight: tuple[Meter, ...]
    speeds: Speeds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The progress of a run at `time` (POSIX), ready to be drawn. `clock` is the time of its own clock then."""

    progress: RunProgress
    speeds: Speeds
    time: float
    clock: float

    @property
    def exit_code(self) -> int:
        """The exit code of the run, 0 until it has ended."""
        return 0 if self.progress.finished is None else self.progress.finished.exit_code


def take_snapshot(progress: RunProgress, speeds: Speeds, *, now: float) -> str:
    """Return the snapshot of this moment; `now` is POSIX time."""
    meters = progress.meters
    document = SnapshotDocument(VERSION, now, progress.clock(), meters.fetched_bytes, meters.in_flight, speeds)
    finished = progress.finished
    values = {name: getattr(progress, name) for name in progress_fields()}
    # The error is an exception's class and more; its exit code is enough.
    values["finished"] = None if finished is None else replace(finished, error=None)
    progress_json = {name: to_json(value) for name, value in values.items()}
    return json.dumps(members(document) | {"progress": progress_json}, separators=(",", ":"))


def read_snapshot(text: str | bytes) -> Snapshot:
    """Return the snapshot in `text`.

    :raises SnapshotError: if it is no snapshot, or one of another version.
    """
    try:
        content = parse_object(text, limit=_MAX_BYTES)
        if content["snapshot_version"] != VERSION:
            raise SnapshotError(f"version {content['snapshot_version']}")

        # The values of a progress are safe to print; those of a file need not be.
        expect_printable(content)
        values = content.pop("progress")
        document = built(SnapshotDocument, content)
        progress = RunProgress(lambda: document.clock, Meters(document.fetched_bytes, document.in_flight))
        hints = progress_fields()
        for name, value in values.items():
            setattr(progress, name, parsed(value, hints[name]))

        if progress.finished is not None:
            ExitCode(progress.finished.exit_code)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise SnapshotError(f"not a snapshot of a run: {type(error).__name__}") from None

    return Snapshot(progress, document.speeds, document.time, document.clock)
