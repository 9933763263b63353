"""Where the run is: stages, images, bytes, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.style import Style

from ...events import Status
from ...text import human_bytes, human_duration, human_rate, sparkline
from ..descriptions import limits_text, subject
from .rows import BAD, FAINT, FULL_WIDTH, GOOD, KNOWN, PLAIN, STRONG, TITLE, WARN, Row, View

# Failures first: what is cut off at the end of a narrow row must not be they.
_COUNTS = (("failed", BAD), ("mirrored", GOOD), ("unchanged", KNOWN), ("skipped", FAINT))


def full_totals(view: View) -> list[Row]:
    """Return everything, with titles and in groups."""
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


def small_totals(view: View) -> list[Row]:
    """A very low frame keeps the images, the counts, the bytes and the speed."""
    bar, size, speed = _images(view, ""), _short_bytes(view), _short_speed(view)
    if view.height < 6:
        return [bar, _add_counts(view, view.row(), _COUNTS), size, speed]

    # A narrow row has no room for four counts.
    parts = [_COUNTS] if view.width >= 54 else [_COUNTS[:2], _COUNTS[2:]]
    counts = [_add_counts(view, view.row(), part) for part in parts]
    return [_head(view), bar, *counts, size, speed, _short_work(view)]


def _head(view: View) -> Row:
    run, state = view.state.run, view.state
    row = view.row()
    if view.width >= FULL_WIDTH:
        row.add("quaymirror  ", FAINT)

    elapsed = human_duration(state.elapsed(view.now))
    name = "starting" if run is None else subject(run)
    flags = ("  dry run" if run is not None and run.dry_run else "") + ("  stopping" if state.stop_reason else "")
    # A long name gives way: that it is stopping matters more.
    row.add(name, STRONG, limit=row.room - len(flags) - len(elapsed) - 1)
    return row.add(flags, WARN).end(elapsed)


def _route(view: View) -> Row:
    run = view.state.run
    if run is None:
        return view.row()

    limits = limits_text(run)
    row = view.row()
    return row.add(f"{run.server} {view.glyphs.arrow} {run.target}", FAINT, limit=row.room - len(limits) - 1).end(
        limits
    )


def _stages(view: View) -> list[Row]:
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
    column = min(16, (view.width - 2 - TITLE) // (len(stages) - 1))
    for number, (name, count) in enumerate(stages):
        if number:
            names.add("   ")
            counts.column(view.glyphs.step, 3, FAINT)

        width = (column if number else TITLE) - 3
        names.column(name, width, FAINT)
        counts.column(f"{count:,}", width, STRONG if name == "done" else PLAIN)

    return [names, counts]


def _images(view: View, title: str = "images") -> Row:
    row, text = view.row(title), _fraction(view)
    _add_total_bar(view, row, row.room - len(text) - 2)
    return row.end(text)


def _fraction(view: View) -> str:
    """Return how many of how many are done, as wide at the end as at the beginning."""
    state = view.state
    total = state.total_text()
    text = f"{state.done:>{len(total)},} of {total}"
    if state.expected_images is None:
        return f"{text}      "

    share = f"{100 * state.done // state.likely_images}%" if state.likely_images else view.glyphs.unknown
    return f"{text}  {share:>4}"


def _add_total_bar(view: View, row: Row, width: int) -> None:
    """Failures first, so that one of thousands is seen and stays where it is."""
    # While it is being listed, what has matched is the better guess, and the bar is not full before its time.
    state = view.state
    images, total = state.images, max(1, state.likely_images, state.matched if not state.listing_ended else 0)
    parts = [(Status.FAILED, BAD), (Status.MIRRORED, GOOD), (Status.UNCHANGED, KNOWN), (Status.SKIPPED, FAINT)]
    end = drawn = 0
    for status, style in parts:
        end += images[status]
        until = math.ceil(width * end / total) if status is Status.FAILED else width * end // total
        row.add(view.glyphs.full * (until - drawn), style)
        drawn = max(drawn, until)

    row.add(view.glyphs.rest * (width - drawn), FAINT)


def _add_counts(view: View, row: Row, counts: Sequence[tuple[str, Style]]) -> Row:
    for name, style in counts:
        count = view.state.skipped if name == "skipped" else view.state.images[Status(name)]
        # Half a count would be a wrong one.
        if row.room >= len(f"{count:,} {name}"):
            row.add(f"{count:,}", style if count else FAINT).add(f" {name}", PLAIN if count else FAINT)
            row.add("   "[: row.room])

    return row


def _add_retries(view: View, row: Row) -> Row:
    count = view.state.retries
    return row.end(f"{count:,} {'retry' if count == 1 else 'retries'}", FAINT) if count else row


def _bytes(view: View) -> Row:
    row = view.row("bytes").add(human_bytes(view.meters.fetched_bytes), STRONG).add(" fetched   ")
    return row.add(human_bytes(view.meters.reused_bytes)).add(" saved by sharing")


def _short_bytes(view: View) -> Row:
    row = view.row().add(human_bytes(view.meters.fetched_bytes), STRONG).add(" fetched  ")
    return row.add(f"{human_bytes(view.meters.reused_bytes)} saved")


def _speed(view: View) -> Row:
    row = view.row("rate").column(_rate(view), 13, STRONG)
    return row.add(_history(view, row.room - 14), KNOWN).end(f"ETA {_eta(view):>7}")


def _short_speed(view: View) -> Row:
    row = view.row().column(_rate(view), 13, STRONG)
    return row.add(_history(view, row.room - 12), KNOWN).end(f"ETA {_eta(view)}")


def _history(view: View, width: int) -> str:
    return sparkline(view.rates.history, width, levels=view.glyphs.levels)


def _short_work(view: View) -> Row:
    state = view.state
    return view.row().add(f"{state.checked:,} checked, {state.waiting:,} queued, {state.in_work:,} in flight", FAINT)


def _rate(view: View) -> str:
    rate = view.rates.current
    return view.glyphs.unknown if rate is None else human_rate(rate)


def _eta(view: View) -> str:
    if view.state.finished is not None:
        return view.glyphs.unknown

    eta = view.rates.eta(view.state)
    return view.glyphs.unknown if eta is None else human_duration(eta)
