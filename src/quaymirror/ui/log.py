"""Events as records of the standard library's logging, for files, journals and log collectors.

2026-11-24T02:00:04.120Z INFO    6fb1c0de  mirrored kolla/nova-api:2025.1-debian …
{"time":"2026-11-24T02:00:04.120Z","level":"info","run_id":"6fb1c0de","event":"image_finished","message":…}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from .. import events
from ..events import Event, Status
from ..text import escape_controls
from .descriptions import describe
from .jsonl import event_name, members

LOGGER = "quaymirror"

_LONG_PAUSE_SECONDS = 10.0


class LogObserver:
    """An observer that logs failures as errors, notices as warnings, outcomes as information, and the rest as debug."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._run_id: str | None = None

    def __call__(self, event: Event) -> None:
        """Log `event` if its level is enabled."""
        if isinstance(event, events.RunStarted):
            self._run_id = escape_controls(event.run_id)

        level = level_of(event)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", message_of(event), extra={"run_id": self._run_id, "what": event})


def level_of(event: Event) -> int:
    """Return the `logging` level of an event."""
    match event:
        case events.CheckFailed():
            return logging.ERROR
        case events.ImageFinished(outcome):
            return logging.ERROR if outcome.status is Status.FAILED else logging.INFO
        case events.RunFinished():
            return logging.INFO if event.error is None else logging.ERROR
        case events.ListingFinished():
            return logging.INFO if event.complete else logging.WARNING
        case events.HostPaused():
            # Short pauses are normal while the request rate adapts.
            return logging.WARNING if event.seconds >= _LONG_PAUSE_SECONDS else logging.INFO
        case events.Notice() | events.StopRequested():
            return logging.WARNING
        case events.RunStarted() | events.HostResumed() | events.ImagesMoved():
            return logging.INFO
        case _:
            return logging.DEBUG


def message_of(event: Event) -> str:
    """Return an event as one line of text, safe to print."""
    word, text = describe(event)
    if isinstance(event, events.Notice):
        return text

    return f"{word} {text}".rstrip() if word else event_name(event).replace("_", " ")


class TextFormatter(logging.Formatter):
    """One line per record: time in UTC, level, run, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        run = getattr(record, "run_id", None) or "-"
        return f"{_time(record)} {record.levelname:<7} {run:<8}  {escape_controls(record.getMessage())}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the fields of an event are under `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: Event | None = getattr(record, "what", None)
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run_id": getattr(record, "run_id", None),
            "event": None if event is None else event_name(event),
            "message": escape_controls(record.getMessage()),
            "fields": {} if event is None else members(event),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False)


class CallHandler(logging.Handler):
    """A handler that passes each line, its newline included, to a function."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        self._write(self.format(record) + "\n")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
