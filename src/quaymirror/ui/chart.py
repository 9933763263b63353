"""The chart of a run on its page: rate, images done and limits over time, as plain values for the template. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from ..progress.timeline import Point
from ..text import human_duration, human_rate

# Units of the drawing, which is stretched to the width of the page.
_WIDTH, _HEIGHT = 1000, 200
_LINES = 4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# A chart of more intervals would show noise.
_INTERVALS = 120
_KINDS = 5
_SHORT_SECONDS = 40


def chart(points: Sequence[Point]) -> dict[str, Any] | None:
    """Return the parts of the chart, None if the run was too short for one."""
    if len(points) < 2 or points[-1].at <= 0:
        return None

    end, rates = points[-1].at, _rates(points)
    top, unit, scale = _scale(max(rates))
    images = _round_up(max(1, *(point.done for point in points)))
    area = [(number / len(rates), rate / top) for number, rate in enumerate([*rates, rates[-1]])]
    done = [(point.at / end, point.done / images) for point in points]
    spans, limited = _limits(points)
    return {
        "unit": unit,
        "label": f"{points[-1].done:,} images in {human_duration(end)}, at most {human_rate(max(rates))}",
        "rates": [f"{top * line / _LINES / scale:g}" for line in range(_LINES, -1, -1)],
        "counts": [f"{images * line / _LINES:g}" for line in range(_LINES, -1, -1)],
        "grid": [_HEIGHT * line // _LINES for line in range(_LINES + 1)],
        "times": ["0", *(_moment(end * part / 4, end) for part in range(1, 5))],
        "area": f"0,{_HEIGHT} {_steps(area)} {_WIDTH},{_HEIGHT}",
        "line": " ".join(map(_place, done)),
        "limits": spans,
        "limited": limited,
    }


def _moment(seconds: float, end: float) -> str:
    """Return a time of the axis: in whole seconds, those of a short run would not be at equal distances."""
    return f"{seconds:.1f} s" if end < _SHORT_SECONDS else human_duration(seconds)


def _rates(points: Sequence[Point]) -> list[float]:
    """Return the mean rate in each of equal intervals of the run."""
    end = points[-1].at
    count = max(1, min(_INTERVALS, len(points) - 1, math.ceil(end)))
    width = end / count
    received = [_at(points, width * number) for number in range(count + 1)]
    return [max(0.0, after - before) / width for before, after in pairwise(received)]


def _at(points: Sequence[Point], moment: float) -> float:
    """Return the bytes received until `moment`, between two points in proportion."""
    for before, after in pairwise(points):
        if moment <= after.at:
            part = (moment - before.at) / (after.at - before.at) if after.at > before.at else 1.0
            return before.bytes_fetched + max(0.0, part) * (after.bytes_fetched - before.bytes_fetched)

    return points[-1].bytes_fetched


def _scale(most: float) -> tuple[float, str, float]:
    """Return the top of the axis in bytes per second, its unit, and the bytes of that."""
    power = min(len(_UNITS) - 1, int(math.log(most, 1024))) if most >= 1 else 0
    scale = 1024.0**power
    return _round_up(max(1.0, most / scale)) * scale, _UNITS[power], scale


def _round_up(value: float) -> float:
    """Return the next number that four lines divide into readable parts: 4, 8, 10, 20, 40, 80, 100 and so on."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


def _steps(values: Sequence[tuple[float, float]]) -> str:
    """Return a line of steps: each interval has one rate."""
    corners = [values[0]]
    for (_, before), (x, y) in pairwise(values):
        corners += [(x, before), (x, y)]

    return " ".join(map(_place, corners))


def _place(point: tuple[float, float]) -> str:
    return f"{point[0] * _WIDTH:.1f},{_HEIGHT - point[1] * _HEIGHT:.1f}"


def _limits(points: Sequence[Point]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the times during which something limited the run, and how long each did, the longest first."""
    end = points[-1].at
    seconds: Counter[str] = Counter()
    spans: list[tuple[str, float, float]] = []
    for limit, group in groupby(pairwise(points), key=lambda pair: pair[0].limit):
        pairs = list(group)
        if limit:
            first, last = pairs[0][0].at, pairs[-1][1].at
            seconds[limit] += last - first  # type: ignore[assignment]
            spans.append((limit, first, last))

    kinds = {limit: min(number, _KINDS) for number, (limit, _) in enumerate(seconds.most_common())}
    drawn = [
        {"kind": kinds[limit], "text": limit, "left": f"{100 * a / end:.2f}", "width": f"{100 * (b - a) / end:.2f}"}
        for limit, a, b in spans
    ]
    return drawn, [
        {"kind": kinds[limit], "text": limit, "seconds": time} for limit, time in seconds.most_common(_KINDS)
    ]
