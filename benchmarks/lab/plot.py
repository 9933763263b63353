"""Bar charts as SVG, reproducible from the numbers, for pages with any background."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from . import tables
from .results import Document

_WIDTH, _NAME, _BAR, _ROW, _GAP = 930, 400, 400, 22, 6
# Seen well on white and on black.
_WORDS, _OURS, _BASE, _OTHERS = "#7d858f", "#d9822b", "#8a919b", "#4f8fd0"


@dataclass(frozen=True, slots=True)
class Bar:
    """The length, the label and the colour of a bar."""

    name: str
    value: float
    label: str
    colour: str


def of_scenario(documents: list[Document]) -> str:
    """Return one picture of all cases of a scenario."""
    parts, y = [], 0
    for document in documents:
        panel = bars(document)
        if panel:
            parts.append(_panel(document["title"], panel, y))
            y += (len(panel) + 1) * _ROW + 3 * _GAP

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}"'
        f' font-family="system-ui, sans-serif" font-size="13" fill="{_WORDS}">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def bars(document: Document) -> list[Bar]:
    """Return the bars of a case: peak memory if the case is about memory, wall time otherwise.

    Rows of another day have the time that their ratios mean here.
    """
    what, unit = ("peak_mib", "MiB") if document["scenario"] == "memory" else ("wall", "s")
    found = []
    for name, runs in document["costs"].items():
        if tables.good(runs):
            value = tables.median(runs, what)
            colour = _OURS if name.startswith("quaymirror") else _BASE if name == document["base"] else _OTHERS
            found.append(Bar(tables.labelled(tables.programs(document), name), value, _amount(value, unit), colour))

    for name, wall in tables.referred(document).items():
        found.append(Bar(tables.referred_label(name), wall, f"{_amount(wall, 's')}, by ratio", _OTHERS))

    return found if what == "peak_mib" else sorted(found, key=lambda bar: bar.value)


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _panel(title: str, panel: list[Bar], top: int) -> str:
    longest = max(bar.value for bar in panel) or 1
    lines = [f'<text x="0" y="{top + 15}" font-weight="bold">{escape(title)}</text>']
    for number, bar in enumerate(panel, start=1):
        y = top + number * _ROW
        width = max(1.0, bar.value / longest * _BAR)
        lines += [
            f'<text x="{_NAME - 8}" y="{y + 15}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{_NAME}" y="{y + 3}" width="{width:.1f}" height="{_ROW - _GAP}" rx="2" fill="{bar.colour}"/>',
            f'<text x="{_NAME + width + 6:.1f}" y="{y + 15}">{escape(bar.label)}</text>',
        ]

    return "\n".join(lines)
