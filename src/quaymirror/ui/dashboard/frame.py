"""The sections of a frame, depending on its size."""

from __future__ import annotations

from ...progress.rates import Speeds
from ...progress.run import RunProgress
from .attention import attention
from .rows import FULL_HEIGHT, FULL_WIDTH, Frame, Row, View
from .totals import full_totals, small_totals
from .transfers import transfers


def render(
    progress: RunProgress, speeds: Speeds, *, width: int, height: int, now: float, ascii_only: bool = False
) -> Frame:
    """Return a frame of a run at `now` (a time of its clock), within `width` cells and `height` rows.

    A small frame keeps the totals. `ascii_only` is for consoles that aren't UTF-8.
    """
    view = View(progress, speeds, width, height, now, ascii_only)
    is_full = width >= FULL_WIDTH and height >= FULL_HEIGHT
    rows = full_totals(view) if is_full else small_totals(view)
    for section in (attention, transfers):
        rows += _spaced(view, section(view, height - len(rows) - is_full), blank=is_full)

    return Frame([row.segments for row in rows[:height]])


def _spaced(view: View, rows: list[Row], *, blank: bool) -> list[Row]:
    return [view.row(), *rows] if rows and blank else rows
