"""Text for people: safe to print, with numbers that are read at a glance. Pure; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from .values import pattern

BLOCKS = "▁▂▃▄▅▆▇█"

# Printable according to Unicode, but without a glyph or a width: joiners, fillers, variation selectors.
_INVISIBLE = pattern("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_MAX_TEXT = 500
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def escape_controls(text: str) -> str:
    r"""Return `text` as one line that a terminal shows as it is.

    Controls (C0, C1, ESC), line and paragraph separators, bidirectional and zero-width characters, surrogates, and
    spaces other than U+0020 become `\xNN`, `\uNNNN` or `\UNNNNNNNN`. The function is idempotent.
    """
    if text.isascii() and text.isprintable():
        return text

    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    # isprintable() is false for all of Unicode's categories C (controls, format, surrogates, unassigned) and Z.
    if character.isprintable() and not _INVISIBLE.match(character):
        return character

    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"

    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """Return `text` as one line of at most 500 characters that is safe to print."""
    return shorten(escape_controls(text[:_MAX_TEXT]), _MAX_TEXT)


def shorten(text: str, length: int) -> str:
    """Return `text`, cut to `length` characters with an ellipsis at the end if it is longer."""
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"


def shorten_middle(text: str, length: int) -> str:
    """Return `text`, cut to `length` characters with an ellipsis in its middle: both ends of a name tell it apart."""
    if len(text) <= length:
        return text

    head = max(0, length - 1) // 2
    tail = max(0, length - 1 - head)
    return f"{text[:head]}…{text[len(text) - tail :]}"[: max(0, length)]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: `1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def human_bytes(count: float) -> str:
    """Return a number of bytes in IEC units, in at most ten characters: `812 B`, `1.2 GiB`."""
    if count < 1024:
        return f"{max(0, int(count))} B"

    value = count / 1024
    for unit in _UNITS[:-1]:
        # 1023.95 would be written as 1024.0.
        if value < 1023.95:
            return f"{value:.1f} {unit}"

        value /= 1024

    return f"{value:.1f} {_UNITS[-1]}"


def human_rate(bytes_per_second: float) -> str:
    """Return a rate in bytes per second: `45.2 MiB/s`."""
    return f"{human_bytes(bytes_per_second)}/s"


def human_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `12 s`, `3m 05s`, `1h 02m`, `2d 03h`."""
    # The cap keeps infinity out: it has no int.
    whole = int(max(0.0, min(seconds, 999 * 86_400.0)))
    if whole < 60:
        return f"{whole} s"

    if whole < 3_600:
        return f"{whole // 60}m {whole % 60:02}s"

    if whole < 86_400:
        return f"{whole // 3_600}h {whole % 3_600 // 60:02}m"

    return f"{whole // 86_400}d {whole % 86_400 // 3_600:02}h"


def sparkline(values: Sequence[float], width: int, *, levels: str = BLOCKS) -> str:
    """Return the last `width` of `values` as bars; the largest value has the highest of `levels`."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    if top <= 0:
        return levels[0] * len(shown)

    return "".join(levels[round(max(0.0, value) / top * (len(levels) - 1))] for value in shown)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return `rows` as lines with aligned columns, safe to print."""
    cells = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def local_time(moment: float) -> str:
    """Return a POSIX time in the local time zone, to the minute."""
    return f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M}"
