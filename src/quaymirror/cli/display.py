"""The display of runs that `--progress`, `--log-file` and `--log-format` ask for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import ConfigError
from ..events import Event, ImageDerived, Notice, Observer, ignore
from ..progress.combined import CombinedProgress
from ..settings import OutputOptions
from ..store.fsops import open_for_writing
from ..text import escape_controls
from ..ui.log import LOGGER, CallHandler, JsonFormatter, LogObserver, TextFormatter
from ..values import dataclass


@dataclass(frozen=True, slots=True)
class Display:
    """The observer of all runs together, a factory of observers of one run each, and the task that redraws."""

    observe: Observer = ignore
    for_run: Callable[[], Observer] = lambda: ignore
    run: Callable[[], Coroutine[Any, Any, None]] | None = None


def make_display(outputs: OutputOptions, progress: CombinedProgress) -> Display:
    """Return the display that `--progress` asks for; `auto` depends on the terminal."""
    match shown_progress(outputs):
        case "rich":
            from ..ui.dashboard import Dashboard

            dashboard = Dashboard(progress)
            log = LogObserver(_logger(outputs, lambda line: dashboard.print(line.rstrip("\n")), messages_only=True))
            # The dashboard itself shows everything but notices.
            return Display(log if outputs.verbose else lambda event: _only_notices(log, event), run=dashboard.run)
        case "plain":
            from ..ui.lines import Lines

            lines = Lines(progress, _to_stderr, verbose=outputs.verbose)
            return Display(lines, run=lines.run)
        case "log":
            logger = _logger(outputs, _to_stderr)
            return Display(for_run=lambda: LogObserver(logger))
        case "json":
            from ..ui.jsonl import JsonLines

            return Display(for_run=lambda: JsonLines(_to_stdout))
        case _:
            return Display()


def _only_notices(log: Observer, event: Event) -> None:
    if isinstance(event, Notice):
        log(event)


def is_screen() -> bool:
    """Return True if standard error is a terminal with a movable cursor, which that of Emacs' shell is not."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def shown_progress(outputs: OutputOptions) -> str:
    """Return the kind of display; `log` replaces plain lines if the log format is JSON."""
    if outputs.quiet and outputs.progress != "json":
        return "none"

    progress = outputs.progress
    if progress == "auto":
        progress = "rich" if outputs.log_format == "text" else "plain"

    if progress == "rich" and not is_screen():
        progress = "plain"

    return "log" if progress == "plain" and outputs.log_format == "json" and outputs.log_file is None else progress


def _logger(outputs: OutputOptions, write: Callable[[str], object], *, messages_only: bool = False) -> logging.Logger:
    """Return a logger that passes lines to `write`: all of them, or messages that a dashboard doesn't show."""
    usual = logging.WARNING if messages_only else logging.INFO
    logger = logging.Logger(LOGGER, logging.DEBUG if outputs.verbose else usual)
    handler = CallHandler(write)
    if messages_only:
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler.setFormatter(JsonFormatter() if outputs.log_format == "json" else TextFormatter())

    logger.addHandler(handler)
    return logger


@contextmanager
def open_log(outputs: OutputOptions) -> Iterator[Callable[[], Observer]]:
    """Open the log file, if any, and yield a factory of observers that write to it, one per run.

    :raises ConfigError: if it can't be opened.
    """
    if outputs.log_file is None:
        yield lambda: ignore
        return

    try:
        file = os.fdopen(open_for_writing(outputs.log_file, os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--log-file {outputs.log_file}: {error.strerror}") from None

    def write(line: str) -> None:
        # The mirror itself reports a full disk; the log must not end the run.
        with suppress(OSError):
            file.write(line)
            file.flush()

    try:
        logger = _logger(outputs, write)
        yield lambda: LogObserver(logger)
    finally:
        with suppress(OSError):
            file.close()


class Printer:
    """An observer that writes the output of filters to stdout per image, below a dashboard when that has ended.

    JSON lines contain it already.
    """

    def __init__(self, outputs: OutputOptions) -> None:
        self._is_silent = outputs.progress == "json"
        self._must_wait = shown_progress(outputs) == "rich"
        self._waiting: list[str] = []

    def __call__(self, event: Event) -> None:
        """Print the output that `event` holds, if any."""
        if isinstance(event, ImageDerived) and event.printed and not self._is_silent:
            # The file names in it are not trusted: no escape sequence gets through.
            self._waiting.append("".join(f"{escape_controls(line)}\n" for line in event.printed))
            if not self._must_wait:
                self.flush()

    def flush(self) -> None:
        """Print everything that waited."""
        for text in self._waiting:
            _to_stdout(text)

        self._waiting.clear()


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
