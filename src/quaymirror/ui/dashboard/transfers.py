"""The transfers in flight, each with its bar."""

from __future__ import annotations

from collections.abc import Sequence

from ...progress.meters import Meter
from ...text import human_bytes
from .rows import FAINT, KNOWN, Row, View

# From this width on transfers have two columns with a gutter between them.
_TWO_COLUMNS, _GUTTER = 160, 4
# With more room names get longer first, then bars; digests come last.
_WIDE, _WIDER = 90, 120


def transfers(view: View, room: int) -> list[Row]:
    """Fill `room` with a title and the transfers with the most bytes to come, from left to right."""
    meters = view.progress.meters.in_flight
    if not meters or room < 2:
        return []

    columns = 2 if view.width >= _TWO_COLUMNS else 1
    shown = sorted(meters, key=_urgency)[: (room - 1) * columns]
    hidden = len(meters) - len(shown)
    text = f"{len(meters):,} transfers" + (f", {hidden:,} smaller ones not shown" if hidden else "")
    rows = [_transfer_row(view, shown[first : first + columns], columns) for first in range(0, len(shown), columns)]
    return [view.row("fetching").add(text, FAINT), *rows]


def _transfer_row(view: View, meters: Sequence[Meter], columns: int) -> Row:
    row = view.row()
    width = (row.room - _GUTTER * (columns - 1)) // columns
    for number, meter in enumerate(meters):
        row.add(" " * _GUTTER if number else "")
        _add_transfer(view, row, meter, width)

    return row


def _urgency(meter: Meter) -> int:
    # By powers of two, then by age: sorting by bytes would reorder the rows in each frame.
    return -max(0, meter.total - meter.done).bit_length()


def _add_transfer(view: View, row: Row, meter: Meter, width: int) -> None:
    share = min(1.0, max(0.0, meter.done / meter.total)) if meter.total > 0 else 0.0
    percent = f" {int(100 * share):>3}%"
    if width < 58:
        row.column(meter.label, width - 5).add(percent)
        return

    end = row.room - width
    row.column(meter.label, width // 2 if width >= _WIDE else width * 2 // 5).add("  ")
    tail = f"{human_bytes(meter.total):>10}"
    if width >= _WIDER:
        row.add(meter.digest.short, FAINT).add("  ")

    _add_bar(view, row, share, row.room - end - len(percent) - len(tail) - 3)
    row.add(f" {percent}  ").add(tail, FAINT)


def _add_bar(view: View, row: Row, share: float, width: int) -> None:
    halves = int(share * width * 2)
    filled = view.glyphs.full * (halves // 2) + view.glyphs.half * (halves % 2)
    row.add(filled, KNOWN).add(view.glyphs.rest * (width - len(filled)), FAINT)
