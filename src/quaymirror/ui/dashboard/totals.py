"""The totals of a run: images, bytes, speed, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.style import Style

from ...events import Status
from ...progress.forecast import expected_images, likely_images, total_bytes
from ...progress.images import received_by_image
from ...progress.run import RunProgress
from ...text import counted, human_bytes, human_duration, human_rate, sparkline
from ..descriptions import limiting_text, limits_text, subject, time_left, total_text
from .rows import BAD, FAINT, FULL_WIDTH, GOOD, KNOWN, PLAIN, STRONG, TITLE, WARN, Row, View, add_bar, of_total

# Failures come first, because a narrow row cuts off its end.
_COUNTS = (
    (Status.FAILED, BAD),
    (Status.REFUSED, BAD),
    (Status.MIRRORED, GOOD),
    (Status.UNCHANGED, KNOWN),
    (Status.SKIPPED, FAINT),
)
# The text after the bars of full totals.
_TEXT = 28


def full_totals(view: View) -> list[Row]:
    """Return all totals in groups with titles."""
    return [
        _head(view),
        _route(view),
        view.row(),
        *_checks(view),
        _images(view),
        _bytes(view),
        _add_counts(view, view.row("done"), _COUNTS),
        _speed(view, "speed", reserved=16, width=10),
        *_limit(view),
        *_jobs(view),
    ]


def small_totals(view: View) -> list[Row]:
    """Return the most important totals, as few rows as a low frame has."""
    bar, size, speed = _short_images(view), _short_bytes(view), _speed(view, "", reserved=12, width=1)
    if view.height < 6:
        return [bar, _add_counts(view, view.row(), _COUNTS), size, speed]

    # A narrow row has no room for four counts.
    parts = [_COUNTS] if view.width >= 54 else [_COUNTS[:3], _COUNTS[3:]]
    counts = [_add_counts(view, view.row(), part) for part in parts]
    return [_head(view), bar, *counts, size, speed, _short_work(view)]


def _head(view: View) -> Row:
    run, progress = view.progress.run, view.progress
    row = view.row()
    if view.width >= FULL_WIDTH:
        row.add("quaymirror  ", FAINT)

    elapsed = human_duration(progress.elapsed(view.now))
    name = "starting" if run is None else subject(run)
    flags = "  dry run" if run is not None and run.dry_run else ""
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


def _checks(view: View) -> list[Row]:
    """Show the checks of repositories until they are over."""
    progress = view.progress
    if progress.run is None or (progress.listing_ended and progress.checked >= progress.matched):
        return []

    more = "" if progress.listing_ended else "+"
    row = view.row("checked")
    text = f"{progress.checked:,} of {progress.matched:,}{more} repositories"
    return [_with_bar(view, row, progress.checked / max(1, progress.matched), text)]


def _with_bar(view: View, row: Row, share: float, text: str) -> Row:
    add_bar(view, row, share, row.room - _TEXT - 2)
    return row.add("  ").add(text)


def _images(view: View) -> Row:
    row = view.row("images")
    _add_total_bar(view, row, row.room - _TEXT - 2)
    return row.add("  ").add(_fraction(view))


def _short_images(view: View) -> Row:
    row, text = view.row(), _fraction(view)
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
    """Draw failures first, so that one of thousands is visible and stays in its place; images in work are last."""
    # During the listing the matched repositories are the better guess, and keep the bar from filling too early.
    progress = view.progress
    total = max(1, likely_images(progress), 0 if progress.listing_ended else progress.matched)
    end = drawn = 0
    for status, style in _COUNTS:
        end += progress.images[status]
        until = math.ceil(width * end / total) if status is Status.FAILED else width * end // total
        row.add(view.glyphs.full * (until - drawn), style)
        drawn = max(drawn, until)

    until = min(width, max(drawn, int(width * (end + _parts_in_work(progress)) / total)))
    row.add(view.glyphs.full * (until - drawn), FAINT)
    row.add(view.glyphs.rest * (width - until), FAINT)


def _parts_in_work(progress: RunProgress) -> float:
    """Return how many images the parts of those in work add up to."""
    received = received_by_image(progress.work, progress.meters.in_flight)
    parts = (min(1.0, received[name] / image.bytes) for name, image in progress.work.items() if image.bytes > 0)
    return sum(parts)


def _add_counts(view: View, row: Row, counts: Sequence[tuple[Status, Style]]) -> Row:
    for status, style in counts:
        count = view.progress.count(status)
        if status is Status.REFUSED and not count:
            continue  # most runs have no signature policy

        # A cut number would be wrong.
        if row.room >= len(f"{count:,} {status.value}"):
            row.add(f"{count:,}", style if count else FAINT).add(f" {status.value}", PLAIN if count else FAINT)
            row.add("   "[: row.room])

    return row


def _bytes(view: View) -> Row:
    progress = view.progress
    row = view.row("bytes")
    if progress.is_dry_run:
        return row.add(human_bytes(progress.bytes_fetched), STRONG).add(" would be fetched")

    if progress.stop_reason is not None:
        row.add(human_bytes(progress.bytes_fetched), STRONG).add(" fetched")
        return _end_shared(row, progress)

    received, total = progress.meters.fetched_bytes, total_bytes(progress)
    share = received / total if total else 0.0
    text = human_bytes(received) if total is None else of_total(received, _about(progress, total))
    return _end_shared(_with_bar(view, row, share, text), progress)


def _end_shared(row: Row, progress: RunProgress) -> Row:
    return row.end(f"{human_bytes(progress.bytes_reused)} shared", FAINT) if progress.bytes_reused else row


def _about(progress: RunProgress, total: float) -> str:
    is_known = progress.known_images - progress.done <= progress.planned_in_work
    return ("" if is_known else "~") + human_bytes(total)


def _short_bytes(view: View) -> Row:
    progress = view.progress
    total = None if progress.is_dry_run or progress.stop_reason is not None else total_bytes(progress)
    if total is not None:
        return view.row().add(of_total(progress.bytes_fetched, _about(progress, total)), STRONG)

    row = view.row().add(human_bytes(progress.bytes_fetched), STRONG)
    return row.add(" to fetch" if progress.is_dry_run else " fetched")


def _speed(view: View, title: str, *, reserved: int, width: int) -> Row:
    rate = view.glyphs.unknown if view.speeds.current is None else human_rate(view.speeds.current)
    row = view.row(title).column(rate, 13, STRONG)
    history = sparkline(view.speeds.history, row.room - reserved, levels=view.glyphs.levels)
    row.add(history, KNOWN)
    # The end of a stopping run does not depend on the remaining bytes.
    if view.progress.stop_reason is not None:
        return row.end("stopping", WARN)

    return row.end(f"ETA {_eta(view):>{width}}")


def _limit(view: View) -> list[Row]:
    # A run that stops waits for nothing but its transfers.
    text = "" if view.progress.stop_reason is not None else limiting_text(view.progress, view.speeds)
    return [view.row("limit").add(text)] if text else []


def _jobs(view: View) -> list[Row]:
    """Show each of several runs in one line."""
    if len(view.runs) < 2:
        return []

    room = max(2, view.height // 3)
    names = [_job_name(run) for run in view.runs[:room]]
    # The bars of short names begin where the other bars do.
    width = min(30, view.width // 4, max(TITLE - 2, *map(len, names)))
    rows = [view.row(), *(_job(view, run, name, width) for run, name in zip(view.runs, names, strict=False))]
    hidden = len(view.runs) - room
    return rows if hidden <= 0 else [*rows, view.row().add(f"and {counted(hidden, 'more job')}", FAINT)]


def _job_name(run: RunProgress) -> str:
    return ("" if run.run is None else ", ".join(run.run.jobs) or run.run.target) or "waiting"


def _job(view: View, run: RunProgress, name: str, width: int) -> Row:
    row = view.row().column(name, width, STRONG if run.run else FAINT).add("  ")
    done, failed = f"{run.done:,} of {total_text(run)}", f"{run.failed:,} failed" if run.failed else ""
    state = "ended" if run.finished is not None else "" if run.stop_reason is None else "stopping"
    share = run.done / likely_images(run) if likely_images(run) else 0.0
    add_bar(view, row, share, row.room - 48, GOOD if run.finished is not None else KNOWN)
    row.add("  ").column(done, 14).column(human_bytes(run.bytes_fetched), 12).column(failed, 12, BAD)
    return row.end(state, FAINT)


def _short_work(view: View) -> Row:
    progress = view.progress
    return view.row().add(
        f"{progress.checked:,} checked, {progress.waiting:,} queued, {progress.in_work:,} in flight", FAINT
    )


def _eta(view: View) -> str:
    left = time_left(view.progress, view.speeds, view.now)
    return view.glyphs.unknown if left is None else human_duration(left)
