"""Tables and JSON of listings on stdout."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from ..text import escape_controls, shorten_middle, table

_SHORT_DIGEST = 12
_LEAST_NAME = 16
_LEAST_LAST = 12


class JsonRows:
    """Objects that are printed as they come: one array, or one line per object.

    An array that is not closed, because an error ended the listing, is no JSON: a part is not taken for the whole.
    """

    def __init__(self, *, as_lines: bool) -> None:
        self._as_lines = as_lines
        self._is_empty = True

    def add(self, row: Mapping[str, object]) -> None:
        """Print an object."""
        if self._as_lines:
            click.echo(json.dumps(row))
            return

        text = json.dumps([row], indent=2)[2:-2]
        click.echo(("[\n" if self._is_empty else ",\n") + text, nl=False)
        self._is_empty = False

    def close(self) -> None:
        """End the array."""
        if not self._as_lines:
            click.echo("[]" if self._is_empty else "\n]")


def print_lines(lines: Sequence[str]) -> None:
    """Print lines in one go: a listing may have many."""
    if lines:
        click.echo("\n".join(lines))


def is_short(*, no_trunc: bool) -> bool:
    """Return True if digests and names are shortened: on a terminal only."""
    return not no_trunc and sys.stdout is not None and sys.stdout.isatty()


def short_digest(digest: str, *, is_cut: bool) -> str:
    """Return the beginning of a digest if `is_cut`, otherwise all of it."""
    return digest.partition(":")[2][:_SHORT_DIGEST] if is_cut else digest


def fitting_table(rows: Sequence[Sequence[str]], *, no_trunc: bool) -> list[str]:
    """Return `rows` as lines with aligned columns, safe to print; on a terminal names, the first cells, are cut."""
    lines = table(rows)
    excess = max(map(len, lines), default=0) - shutil.get_terminal_size().columns
    if excess <= 0 or not is_short(no_trunc=no_trunc):
        return lines

    names = [escape_controls(row[0]) for row in rows]
    room = max(_LEAST_NAME, max(map(len, names)) - excess)
    return table([(shorten_middle(name, room), *row[1:]) for name, row in zip(names, rows, strict=True)])


def narrowed_table(rows: Sequence[Sequence[str]], *, optional: Sequence[str]) -> list[str]:
    """Return `rows`, of which the first is a head, as lines with aligned columns, safe to print.

    On a terminal that is too narrow, the last cells are cut, and `optional` columns are left out until the table fits,
    those without content first.
    """
    if not is_short(no_trunc=False):
        return table(rows)

    columns = {head: [escape_controls(cell) for cell in cells] for head, *cells in zip(*rows, strict=True)}
    for name in sorted(optional, key=lambda name: any(cell not in ("", "-", "0") for cell in columns[name])):
        if _room_of_last(columns) >= min(_LEAST_LAST, _widths(columns)[-1]):
            break

        del columns[name]

    last, room = [*columns][-1], max(_LEAST_LAST, _room_of_last(columns))
    columns[last] = [shorten_middle(cell, room) for cell in columns[last]]
    return table([[*columns], *zip(*columns.values(), strict=True)])


def _room_of_last(columns: Mapping[str, Sequence[str]]) -> int:
    """Return the cells that the terminal has for the last of `columns`."""
    return shutil.get_terminal_size().columns - sum(width + 2 for width in _widths(columns)[:-1])


def _widths(columns: Mapping[str, Sequence[str]]) -> list[int]:
    return [max(map(len, [head, *cells])) for head, cells in columns.items()]
