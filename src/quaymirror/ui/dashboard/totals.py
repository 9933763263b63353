"""The totals of a run: stages, images, bytes, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.style import Style

from ...events import Status
from ...progress.forecast import expected_images, likely_images, seconds_left
from ...text import counted, human_bytes, human_duration, human_rate, sparkline
from ..descriptions import limits_text, subject, total_text
from .rows import BAD, FAINT, FULL_WIDTH, GOOD, KNOWN, PLAIN, STRONG, TITLE, WARN, Row, View

# Failures come first, because a narrow row cuts off its end.
_COUNTS = ((Status.FAILED, BAD), (Status.MIRRORED, GOOD), (Status.UNCHANGED, KNOWN), (Status.SKIPPED, FAINT))


def full_totals(view: View) -> list[Row]:
    """Return all totals in groups with titles."""
    return [
        _head(view),
        _route(view),
        view.row(),
        *_stages(view),
        view.row(),
        _images(view),
        _add_retries(view, _add_counts(view, view.row(" "), _COUNTS)),
        _bytes(view),
        _speed(view, "rate", reserved=14, width=7),
    ]


def small_totals(view: View) -> list[Row]:
    """Return the most important totals, as few rows as a low frame has."""
    bar, size, speed = _images(view, ""), _short_bytes(view), _speed(view, "", reserved=12, width=1)
    if view.height < 6:
        return [bar, _add_counts(view, view.row(), _COUNTS), size, speed]

    # A narrow row has no room for four counts.
    parts = [_COUNTS] if view.width >= 54 else [_COUNTS[:2], _COUNTS[2:]]
    counts = [_add_counts(view, view.row(), part) for part in parts]
    return [_head(view), bar, *counts, size, speed, _short_work(view)]


def _head(view: View) -> Row:
    run, progress = view.progress.run, view.progress
    row = view.row()
    if view.width >= FULL_WIDTH:
        row.add("quaymirror  ", FAINT)

    elapsed = human_duration(progress.elapsed(view.now))
    name = "starting" if run is None else subject(run)
    flags = ("  dry run" if run is not None and run.dry_run else "") + ("  stopping" if progress.stop_reason else "")
    # A long name is cut, because the flags matter more.
    row.add(name, STRONG, limit=row.room - len(flags) - len(elapsed) - 1)
    return row.add(flags, WARN).end(elapsed)


def _route(view: View) -> Row:
    run = view.progress.run
    if run is None:
        return view.row()

    row, limits = view.row(), limits_text(run)
    route = f"{run.server} {view.glyphs.arrow} {run.target}"
    return row.add(route, FAINT, limit=row.room - len(limits) - 1).end(limits)


def _stages(view: View) -> list[Row]:
    progress = view.progress
    stages = [
        ("listed", progress.listed),
        ("matched", progress.matched),
        ("checked", progress.checked),
        ("queued", progress.waiting),
        ("in flight", progress.in_work),
        ("done", progress.done),
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
    """Return the finished images of all, in a constant width."""
    progress = view.progress
    total = total_text(progress)
    text = f"{progress.done:>{len(total)},} of {total}"
    if expected_images(progress) is None:
        return f"{text}      "

    share = f"{100 * progress.done // likely_images(progress)}%" if likely_images(progress) else view.glyphs.unknown
    return f"{text}  {share:>4}"


def _add_total_bar(view: View, row: Row, width: int) -> None:
    """Draw failures first, so that one of thousands is visible and stays in its place."""
    # During the listing the matched repositories are the better guess, and keep the bar from filling too early.
    progress = view.progress
    total = max(1, likely_images(progress), 0 if progress.listing_ended else progress.matched)
    end = drawn = 0
    for status, style in _COUNTS:
        end += progress.images[status]
        until = math.ceil(width * end / total) if status is Status.FAILED else width * end // total
        row.add(view.glyphs.full * (until - drawn), style)
        drawn = max(drawn, until)

    row.add(view.glyphs.rest * (width - drawn), FAINT)


def _add_counts(view: View, row: Row, counts: Sequence[tuple[Status, Style]]) -> Row:
    for status, style in counts:
        count = view.progress.count(status)
        # A cut number would be wrong.
        if row.room >= len(f"{count:,} {status.value}"):
            row.add(f"{count:,}", style if count else FAINT).add(f" {status.value}", PLAIN if count else FAINT)
            row.add("   "[: row.room])

    return row


def _add_retries(view: View, row: Row) -> Row:
    count = view.progress.hosts.retries
    return row.end(counted(count, "retry", "retries"), FAINT) if count else row


def _bytes(view: View) -> Row:
    row = view.row("bytes").add(human_bytes(view.progress.bytes_fetched), STRONG)
    row.add(" would be fetched   " if view.progress.is_dry_run else " fetched   ")
    return row.add(human_bytes(view.progress.bytes_reused)).add(" saved by sharing")


def _short_bytes(view: View) -> Row:
    row = view.row().add(human_bytes(view.progress.bytes_fetched), STRONG)
    row.add(" to fetch  " if view.progress.is_dry_run else " fetched  ")
    return row.add(f"{human_bytes(view.progress.bytes_reused)} saved")


def _speed(view: View, title: str, *, reserved: int, width: int) -> Row:
    rate = view.glyphs.unknown if view.speeds.current is None else human_rate(view.speeds.current)
    row = view.row(title).column(rate, 13, STRONG)
    history = sparkline(view.speeds.history, row.room - reserved, levels=view.glyphs.levels)
    return row.add(history, KNOWN).end(f"ETA {_eta(view):>{width}}")


def _short_work(view: View) -> Row:
    progress = view.progress
    return view.row().add(
        f"{progress.checked:,} checked, {progress.waiting:,} queued, {progress.in_work:,} in flight", FAINT
    )


def _eta(view: View) -> str:
    has_ended = view.progress.finished is not None
    left = None if has_ended else seconds_left(view.progress, view.speeds.steady, view.now)
    return view.glyphs.unknown if left is None else human_duration(left)
