"""The live dashboard of a run on a terminal. The only importer of rich.

A frame is drawn from numbers that are ready: its cost depends on the rows it has, not on how many images there are.
Rows are made of rich's segments directly, since wrapping, markup and tables would cost many times as much and do
nothing here: every row is cut to its width by us, and every text in it passes `plain`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import anyio
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..events import Event, Meter, Meters, Status
from .state import Rates, RunState, subject
from .text import BLOCKS, human_bytes, human_duration, human_rate, plain, sparkline

__all__ = ["Dashboard", "Frame", "render"]

# Few colours, by the names of the terminal's own palette: dark and light themes both stay readable.
_PLAIN = Style.null()
_STRONG = Style(bold=True)
_FAINT = Style(dim=True)
_GOOD = Style(color="green")
_KNOWN = Style(color="cyan")
_WARN = Style(color="yellow")
_BAD = Style(color="red")

# Below this a frame holds the totals and what else has room, in single short rows.
_FULL_WIDTH, _FULL_HEIGHT = 72, 18
# From this width on transfers stand in two columns, with a gutter between them: bars as long as a line tell no more.
_TWO_COLUMNS, _GUTTER = 160, 4
_TITLE = 9
# Failures first: what is cut off at the end of a narrow row must not be they.
_COUNTS = (("failed", _BAD), ("mirrored", _GOOD), ("unchanged", _KNOWN), ("skipped", _FAINT))
_MAX_PAUSED = 3


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """What bars and separators are drawn with."""

    full: str
    half: str
    rest: str
    step: str
    arrow: str
    ellipsis: str
    levels: str
    unknown: str


_UNICODE = _Glyphs("━", "╸", "─", "\u203a", "→", "…", BLOCKS, "—")
_ASCII = _Glyphs("=", "-", ".", ">", "->", "~", "_.:-=+*#", "-")


class Frame:
    """One picture of a run, at most as wide and as high as it was asked to be: something that rich can print."""

    def __init__(self, rows: list[list[Segment]]) -> None:
        self._rows = rows

    @property
    def lines(self) -> list[str]:
        """The rows without their styles."""
        return ["".join(segment.text for segment in row) for row in self._rows]

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        for row in self._rows:
            yield from row
            yield Segment.line()


class _Row:
    """One row in the making: what is added after its width is used up is not there."""

    __slots__ = ("_ascii_only", "room", "segments")

    def __init__(self, width: int, *, ascii_only: bool) -> None:
        self.segments: list[Segment] = []
        self.room = width
        self._ascii_only = ascii_only

    def add(self, text: str, style: Style = _PLAIN, *, limit: int | None = None) -> _Row:
        """Append `text`, cut to what room there is and to `limit` cells."""
        text = self._fit(text, self.room if limit is None else min(limit, self.room))
        self.room -= _cells(text)
        if text:
            self.segments.append(Segment(text, style))

        return self

    def column(self, text: str, width: int, style: Style = _PLAIN) -> _Row:
        """Append `text`, cut or filled to `width` cells."""
        end = self.room - width
        self.add(text, style, limit=width)
        return self.add(" " * (self.room - max(0, end)))

    def end(self, text: str, style: Style = _PLAIN) -> _Row:
        """Append `text` at the right edge, or nothing if there is no room for all of it."""
        gap = self.room - _cells(self._printable(text))
        return self.add(" " * gap).add(text, style) if gap >= 1 else self

    def _fit(self, text: str, room: int) -> str:
        text = self._printable(text)
        if _cells(text) <= room:
            return text

        ellipsis = _ASCII.ellipsis if self._ascii_only else _UNICODE.ellipsis
        return set_cell_size(text, room - 1) + ellipsis if room > 0 else ""

    def _printable(self, text: str) -> str:
        return _encodable(plain(text), ascii_only=self._ascii_only)


def _encodable(text: str, *, ascii_only: bool) -> str:
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode() if ascii_only else text


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


@dataclass(frozen=True, slots=True)
class _View:
    """What a frame is drawn from."""

    state: RunState
    meters: Meters
    rates: Rates
    width: int
    height: int
    now: float
    ascii_only: bool

    @property
    def glyphs(self) -> _Glyphs:
        return _ASCII if self.ascii_only else _UNICODE

    def row(self, title: str = "", style: Style = _FAINT) -> _Row:
        """Return a new row with a margin, and a title in the column that titles have."""
        # The right margin keeps the cursor out of the last column, where terminals disagree on what comes next.
        row = _Row(self.width - 1, ascii_only=self.ascii_only).add(" ")
        return row.column(title, _TITLE, style) if title else row


def render(
    state: RunState,
    meters: Meters,
    rates: Rates,
    *,
    width: int,
    height: int,
    now: float,
    ascii_only: bool = False,
) -> Frame:
    """Return the picture of a run at `now` (a time of the state's clock), within `width` cells and `height` rows.

    With less room there is less in it; the totals are what stays. `ascii_only` is for consoles that aren't UTF-8.
    """
    view = _View(state, meters, rates, width, height, now, ascii_only)
    is_full = width >= _FULL_WIDTH and height >= _FULL_HEIGHT
    rows = _full_totals(view) if is_full else _small_totals(view)
    for section in (_attention, _transfers):
        rows += _spaced(view, section(view, height - len(rows) - is_full), blank=is_full)

    return Frame([row.segments for row in rows[:height]])


def _spaced(view: _View, rows: list[_Row], *, blank: bool) -> list[_Row]:
    return [view.row(), *rows] if rows and blank else rows


# ---- totals


def _full_totals(view: _View) -> list[_Row]:
    return [
        _head(view),
        _route(view),
        view.row(),
        *_stages(view),
        view.row(),
        _images(view),
        _add_retries(view, _add_counts(view, view.row(" "), _COUNTS)),
        _bytes(view),
        _speed(view),
    ]


def _small_totals(view: _View) -> list[_Row]:
    """A very low frame keeps the images, the counts, the bytes and the speed."""
    bar, size, speed = _images(view, ""), _short_bytes(view), _short_speed(view)
    if view.height < 6:
        return [bar, _add_counts(view, view.row(), _COUNTS), size, speed]

    # A narrow row has no room for four counts.
    parts = [_COUNTS] if view.width >= 54 else [_COUNTS[:2], _COUNTS[2:]]
    counts = [_add_counts(view, view.row(), part) for part in parts]
    return [_head(view), bar, *counts, size, speed, _short_work(view)]


def _head(view: _View) -> _Row:
    run, state = view.state.run, view.state
    row = view.row()
    if view.width >= _FULL_WIDTH:
        row.add("quaymirror  ", _FAINT)

    elapsed = human_duration(state.elapsed(view.now))
    name = "starting" if run is None else subject(run)
    flags = ("  dry run" if run is not None and run.dry_run else "") + ("  stopping" if state.stop_reason else "")
    # A long name gives way: that it is stopping matters more.
    row.add(name, _STRONG, limit=row.room - len(flags) - len(elapsed) - 1)
    return row.add(flags, _WARN).end(elapsed)


def _route(view: _View) -> _Row:
    run = view.state.run
    return view.row() if run is None else view.row().add(f"{run.server} {view.glyphs.arrow} {run.target}", _FAINT)


def _stages(view: _View) -> list[_Row]:
    state = view.state
    stages = [
        ("listed", state.listed),
        ("matched", state.matched),
        ("checked", state.checked),
        ("queued", state.waiting),
        ("in flight", state.in_work),
        ("done", state.done),
    ]
    names, counts = view.row(), view.row()
    column = min(16, (view.width - 2 - _TITLE) // (len(stages) - 1))
    for number, (name, count) in enumerate(stages):
        if number:
            names.add("   ")
            counts.column(view.glyphs.step, 3, _FAINT)

        width = (column if number else _TITLE) - 3
        names.column(name, width, _FAINT)
        counts.column(f"{count:,}", width, _STRONG if name == "done" else _PLAIN)

    return [names, counts]


def _images(view: _View, title: str = "images") -> _Row:
    row, text = view.row(title), _fraction(view)
    _add_total_bar(view, row, row.room - len(text) - 2)
    return row.end(text)


def _fraction(view: _View) -> str:
    """Return how many of how many are done, as wide at the end as at the beginning."""
    state = view.state
    known = f"{state.known_images:,}"
    if not state.listing_ended:
        return f"{state.done:>{len(known)},} of {known}+    "

    share = f"{100 * state.done // state.known_images}%" if state.known_images else view.glyphs.unknown
    return f"{state.done:>{len(known)},} of {known}  {share:>4}"


def _add_total_bar(view: _View, row: _Row, width: int) -> None:
    """Failures first, so that one of thousands is seen and stays where it is."""
    images, total = view.state.images, max(1, view.state.known_images)
    parts = [(Status.FAILED, _BAD), (Status.MIRRORED, _GOOD), (Status.UNCHANGED, _KNOWN), (Status.SKIPPED, _FAINT)]
    end = drawn = 0
    for status, style in parts:
        end += images[status]
        until = math.ceil(width * end / total) if status is Status.FAILED else width * end // total
        row.add(view.glyphs.full * (until - drawn), style)
        drawn = max(drawn, until)

    row.add(view.glyphs.rest * (width - drawn), _FAINT)


def _add_counts(view: _View, row: _Row, counts: Sequence[tuple[str, Style]]) -> _Row:
    for name, style in counts:
        count = view.state.skipped if name == "skipped" else view.state.images[Status(name)]
        # Half a count would be a wrong one.
        if row.room >= len(f"{count:,} {name}"):
            row.add(f"{count:,}", style if count else _FAINT).add(f" {name}", _PLAIN if count else _FAINT)
            row.add("   "[: row.room])

    return row


def _add_retries(view: _View, row: _Row) -> _Row:
    count = view.state.retries
    return row.end(f"{count:,} {'retry' if count == 1 else 'retries'}", _FAINT) if count else row


def _bytes(view: _View) -> _Row:
    row = view.row("bytes").add(human_bytes(view.meters.fetched_bytes), _STRONG).add(" fetched   ")
    return row.add(human_bytes(view.meters.reused_bytes)).add(" saved by sharing")


def _short_bytes(view: _View) -> _Row:
    row = view.row().add(human_bytes(view.meters.fetched_bytes), _STRONG).add(" fetched  ")
    return row.add(f"{human_bytes(view.meters.reused_bytes)} saved")


def _speed(view: _View) -> _Row:
    row = view.row("rate").column(_rate(view), 13, _STRONG)
    return row.add(_history(view, row.room - 14), _KNOWN).end(f"ETA {_eta(view):>7}")


def _short_speed(view: _View) -> _Row:
    row = view.row().column(_rate(view), 13, _STRONG)
    return row.add(_history(view, row.room - 12), _KNOWN).end(f"ETA {_eta(view)}")


def _history(view: _View, width: int) -> str:
    return sparkline(view.rates.history, width, levels=view.glyphs.levels)


def _short_work(view: _View) -> _Row:
    state = view.state
    return view.row().add(f"{state.checked:,} checked, {state.waiting:,} queued, {state.in_work:,} in flight", _FAINT)


def _rate(view: _View) -> str:
    rate = view.rates.current
    return view.glyphs.unknown if rate is None else human_rate(rate)


def _eta(view: _View) -> str:
    if view.state.finished is not None:
        return view.glyphs.unknown

    eta = view.rates.eta(view.state)
    return view.glyphs.unknown if eta is None else human_duration(eta)


# ---- what needs a look


def _attention(view: _View, room: int) -> list[_Row]:
    """Take a third of `room` at most: a stop, paused hosts, the last failures and notices, newest first."""
    if room < 1:
        return []

    quota = max(1, room // 3)
    urgent = [*_stops(view), *_pauses(view)][:quota]
    failures, notices = _failures(view), _notices(view)
    shown = max(quota - len(urgent) - min(len(notices), quota // 4), 0)
    return [*urgent, *failures[:shown], *notices][:quota]


def _stops(view: _View) -> Iterator[_Row]:
    state = view.state
    if state.stop_reason is not None:
        yield view.row("stopping", _WARN).add(f"{state.stop_reason}; {state.in_work:,} in flight are being finished")

    if state.listing_ended and not state.listing_complete:
        yield view.row("listing", _WARN).add("broke off: images may be missing")


def _pauses(view: _View) -> Iterator[_Row]:
    for pause in view.state.paused_at(view.now)[:_MAX_PAUSED]:
        left = human_duration(math.ceil(pause.until - view.now))
        yield view.row("paused", _WARN).add(f"{pause.host}  {left}  ").add(pause.reason, _FAINT)


def _failures(view: _View) -> list[_Row]:
    failures = reversed(view.state.last_failures)
    return [view.row("failed", _BAD).add(f"{failure.name}  ").add(str(failure), _FAINT) for failure in failures]


def _notices(view: _View) -> list[_Row]:
    return [view.row("notice").add(notice) for notice in reversed(view.state.last_notices)]


# ---- transfers


def _transfers(view: _View, room: int) -> list[_Row]:
    """Fill `room`: a title, and the transfers with the most to come first, from left to right."""
    meters = view.meters.in_flight
    if not meters or room < 2:
        return []

    columns = 2 if view.width >= _TWO_COLUMNS else 1
    shown = sorted(meters, key=_urgency)[: (room - 1) * columns]
    hidden = len(meters) - len(shown)
    text = f"{len(meters):,} transfers" + (f", {hidden:,} smaller ones not shown" if hidden else "")
    rows = [_transfer_row(view, shown[first : first + columns], columns) for first in range(0, len(shown), columns)]
    return [view.row("fetching").add(text, _FAINT), *rows]


def _transfer_row(view: _View, meters: Sequence[Meter], columns: int) -> _Row:
    row = view.row()
    width = (row.room - _GUTTER * (columns - 1)) // columns
    for number, meter in enumerate(meters):
        row.add(" " * _GUTTER if number else "")
        _add_transfer(view, row, meter, width)

    return row


def _urgency(meter: Meter) -> int:
    # By powers of two, and by age within one: by the byte, rows would change places at every frame.
    return -max(0, meter.total - meter.done).bit_length()


def _add_transfer(view: _View, row: _Row, meter: Meter, width: int) -> None:
    share = min(1.0, max(0.0, meter.done / meter.total)) if meter.total > 0 else 0.0
    percent = f" {int(100 * share):>3}%"
    if width < 58:
        row.column(meter.label, width - 5).add(percent)
        return

    end = row.room - width
    row.column(meter.label, width * 2 // 5).add("  ")
    tail = f"{human_bytes(meter.total):>10}"
    if width >= 96:
        row.add(meter.digest.short, _FAINT).add("  ")

    _add_bar(view, row, share, row.room - end - len(percent) - len(tail) - 3)
    row.add(f" {percent}  ").add(tail, _FAINT)


def _add_bar(view: _View, row: _Row, share: float, width: int) -> None:
    halves = int(share * width * 2)
    filled = view.glyphs.full * (halves // 2) + view.glyphs.half * (halves % 2)
    row.add(filled, _KNOWN).add(view.glyphs.rest * (width - len(filled)), _FAINT)


# ---- the terminal


class Dashboard:
    """An observer that draws the run on a terminal four times a second while `run` is running.

    Without a `console` it draws on stderr. One event loop calls all of it; nothing here starts a thread.
    """

    PERIOD_SECONDS = 0.25

    def __init__(
        self, meters: Meters, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.state = RunState(clock)
        self._meters = meters
        # By itself rich takes FORCE_COLOR for a terminal, and would move a cursor in a file.
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._clock = clock
        self._rates = Rates(meters, clock=clock)

    def __call__(self, event: Event) -> None:
        """Count `event`; the next frame shows it."""
        self.state.apply(event)

    def print(self, line: str) -> None:
        """Print `line` above the dashboard, as one line, escaped: a terminal wraps it, nothing else does."""
        text = _encodable(plain(line), ascii_only=self._console.options.ascii_only)
        self._console.print(Text(text), soft_wrap=True, markup=False, highlight=False)

    def frame(self) -> Frame:
        """Return the picture of this moment, as large as the console is now."""
        self._rates.sample()
        width, height = self._console.size
        # One row less: ending a display as high as the terminal would scroll its first row out of reach.
        return render(
            self.state,
            self._meters,
            self._rates,
            width=width,
            height=max(1, height - 1),
            now=self._clock(),
            ascii_only=self._console.options.ascii_only,
        )

    async def run(self) -> None:
        """Draw until the run has finished or this is cancelled; then remove the picture and restore the cursor."""
        live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            vertical_overflow="crop",
        )
        size = self._console.size
        with live:
            while self.state.finished is None:
                if size != self._console.size:
                    # The terminal has broken the old rows anew: how many they are now, and where, nobody knows.
                    size = self._console.size
                    self._console.clear()

                live.update(self.frame(), refresh=True)
                await anyio.sleep(self.PERIOD_SECONDS)
