"""Text for people: safe to print, and numbers in a form that can be read at a glance. Pure, standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["BLOCKS", "human_bytes", "human_duration", "human_rate", "plain", "shorten", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"

# Printable by Unicode's word, but without a glyph or a width of their own: joiners, fillers, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def plain(text: str) -> str:
    r"""Return `text` as one line that does nothing to a terminal: every character in it has a glyph.

    Controls (C0, C1, ESC), line and paragraph separators, bidirectional and zero-width characters, surrogates, and
    spaces other than the usual one become `\xNN`, `\uNNNN` or `\UNNNNNNNN`. Doing it twice changes nothing more.
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


def shorten(text: str, length: int) -> str:
    """Return `text`, or as much of its beginning as leaves room for an ellipsis in `length` characters."""
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"


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
    """Return a rate, given in bytes a second: `45.2 MiB/s`."""
    return f"{human_bytes(bytes_per_second)}/s"


def human_duration(seconds: float) -> str:
    """Return a duration, given in seconds, in its two largest units: `12 s`, `3m 05s`, `1h 02m`, `2d 03h`."""
    # Who waits that long has no use for a number; infinity has no int.
    whole = int(max(0.0, min(seconds, 999 * 86_400.0)))
    if whole < 60:
        return f"{whole} s"

    if whole < 3_600:
        return f"{whole // 60}m {whole % 60:02}s"

    if whole < 86_400:
        return f"{whole // 3_600}h {whole % 3_600 // 60:02}m"

    return f"{whole // 86_400}d {whole % 86_400 // 3_600:02}h"


def sparkline(values: Sequence[float], width: int, *, levels: str = BLOCKS) -> str:
    """Return the last `width` of `values` as a row of bars, the largest of them as the highest of `levels`."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    if top <= 0:
        return levels[0] * len(shown)

    return "".join(levels[round(max(0.0, value) / top * (len(levels) - 1))] for value in shown)
