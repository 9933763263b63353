"""The progress of a command that is no run: a line that is rewritten on a terminal, elsewhere one every few seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from ..events import Event
from ..progress.rates import Rates
from ..tasks import background
from ..text import escape_controls, human_bytes, human_duration, human_rate
from .display import is_screen
from .messages import say, show_notice

_FRAME_SECONDS, _LINE_SECONDS = 0.25, 5.0
_CLEAR = "\r\x1b[K"
_BAR_CELLS = 20


class Counter:
    """A count of a total, for sampling, and the same in words for people; `is_bytes` if it counts bytes."""

    def __init__(self) -> None:
        self.text = ""
        self.done = 0
        self.total = 0
        self.is_bytes = False

    def line(self, rates: Rates) -> str:
        """Return the progress in one line, "" if nothing is known yet."""
        if not self.total:
            return self.text

        share = min(1.0, self.done / self.total)
        rate = rates.speeds.steady
        parts = [f"{int(100 * share):>3}%  {self.text}"]
        if rate and self.is_bytes:
            left = human_duration((self.total - self.done) / rate)
            parts = [f"{parts[0]}, {human_bytes(self.done)} of {human_bytes(self.total)}", human_rate(rate)]
            parts.append(f"{left} left")

        return ", ".join(parts)

    @property
    def bar(self) -> str:
        """A bar of ASCII characters, which every terminal has."""
        full = _BAR_CELLS * min(self.done, self.total) // self.total if self.total else 0
        return f"[{'=' * full}{' ' * (_BAR_CELLS - full)}] "


@asynccontextmanager
async def progress_line(update: Callable[[Counter], None]) -> AsyncIterator[None]:
    """Show what `update` sets in the counter while the context lasts, and remove it at the end."""
    counter = Counter()
    show = _frames if is_screen() else _lines

    async def run() -> None:
        await show(counter, update)

    try:
        async with background(run):
            yield
    finally:
        clear_line()


def show_notice_above(event: Event) -> None:
    """Print the message of a notice above the progress; an observer."""
    clear_line()
    show_notice(event)


def clear_line() -> None:
    """Remove the progress from a terminal, because another line follows; the progress comes again below it."""
    if is_screen():
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()


async def _frames(counter: Counter, update: Callable[[Counter], None]) -> None:
    rates = Rates()
    while True:
        await anyio.sleep(_FRAME_SECONDS)
        update(counter)
        rates.sample(time.monotonic(), counter.done)
        if line := counter.line(rates):
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"{_CLEAR}{escape_controls(counter.bar + line)[:width]}")
            sys.stderr.flush()


async def _lines(counter: Counter, update: Callable[[Counter], None]) -> None:
    rates = Rates()
    while True:
        await anyio.sleep(_LINE_SECONDS)
        update(counter)
        rates.sample(time.monotonic(), counter.done)
        if line := counter.line(rates):
            say(line.strip())
