"""Rows of limited width, the parts of all sections."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from ...progress.rates import Speeds
from ...progress.run import RunProgress
from ...text import BLOCKS, escape_controls, human_bytes
from ...values import dataclass

# Few colours, from the terminal's own palette, which keeps dark and light themes readable.
PLAIN = Style.null()
STRONG = Style(bold=True)
FAINT = Style(dim=True)
GOOD = Style(color="green")
KNOWN = Style(color="cyan")
# Yellow would be unreadable on white.
WARN = Style(color="magenta")
BAD = Style(color="red")

# A smaller frame holds the totals in short rows, and other sections as far as they fit.
FULL_WIDTH, FULL_HEIGHT = 72, 18
TITLE = 9


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of bars and separators."""

    full: str
    half: str
    rest: str
    step: str
    arrow: str
    ellipsis: str
    levels: str
    unknown: str


UNICODE = Glyphs("━", "╸", "─", "\u203a", "→", "…", BLOCKS, "—")
ASCII = Glyphs("=", "-", ".", ">", "->", "~", "_.:-=+*#", "-")


class Frame:
    """One picture of a run, of limited width and height, which rich can print."""

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


class Row:
    """A row under construction; text beyond its width is dropped."""

    __slots__ = ("_ascii_only", "room", "segments")

    def __init__(self, width: int, *, ascii_only: bool) -> None:
        self.segments: list[Segment] = []
        self.room: int = width
        self._ascii_only = ascii_only

    def add(self, text: str, style: Style = PLAIN, *, limit: int | None = None) -> Row:
        """Append `text`, cut to the free room and to `limit` cells."""
        text = self._fit(text, self.room if limit is None else min(limit, self.room))
        self.room -= _cells(text)
        if text:
            self.segments.append(Segment(text, style))

        return self

    def column(self, text: str, width: int, style: Style = PLAIN) -> Row:
        """Append `text`, cut or padded to `width` cells."""
        end = self.room - width
        self.add(text, style, limit=width)
        return self.add(" " * (self.room - max(0, end)))

    def end(self, text: str, style: Style = PLAIN) -> Row:
        """Append `text` at the right edge if all of it fits."""
        gap = self.room - _cells(self._printable(text))
        return self.add(" " * gap).add(text, style) if gap >= 1 else self

    def _fit(self, text: str, room: int) -> str:
        text = self._printable(text)
        if _cells(text) <= room:
            return text

        ellipsis = ASCII.ellipsis if self._ascii_only else UNICODE.ellipsis
        return set_cell_size(text, room - 1) + ellipsis if room > 0 else ""

    def _printable(self, text: str) -> str:
        return encodable(escape_controls(text), ascii_only=self._ascii_only)


def add_bar(view: View, row: Row, share: float, width: int, style: Style = KNOWN) -> None:
    """Append a bar of `width` cells, of which `share` is filled."""
    halves = int(min(1.0, max(0.0, share)) * width * 2)
    filled = view.glyphs.full * (halves // 2) + view.glyphs.half * (halves % 2)
    row.add(filled, style).add(view.glyphs.rest * (width - len(filled)), FAINT)


def of_total(done: float, total: str) -> str:
    """Return bytes done of a `total`, without their unit if both have the same: `1.2 of 3.4 MiB`."""
    number, _, unit = human_bytes(done).partition(" ")
    return f"{number} of {total}" if total.endswith(f" {unit}") else f"{number} {unit} of {total}"


def encodable(text: str, *, ascii_only: bool) -> str:
    """Return `text` in characters that a console can show which isn't UTF-8."""
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode() if ascii_only else text


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


@dataclass(frozen=True, slots=True)
class View:
    """The input of a frame."""

    progress: RunProgress
    speeds: Speeds
    width: int
    height: int
    now: float
    ascii_only: bool
    runs: Sequence[RunProgress] = ()
    """The runs that `progress` is the sum of, if it is one."""

    @property
    def glyphs(self) -> Glyphs:
        """The characters of this frame."""
        return ASCII if self.ascii_only else UNICODE

    def row(self, title: str = "", style: Style = FAINT) -> Row:
        """Return a new row with a margin, and a title in the column of titles."""
        # The right margin keeps the cursor out of the last column, where terminals differ.
        row = Row(self.width - 1, ascii_only=self.ascii_only).add(" ")
        return row.column(title, TITLE, style) if title else row
