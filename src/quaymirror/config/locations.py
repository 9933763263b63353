"""Places of the keys and array items of a TOML document, which `tomllib` does not report.

The document has been parsed before, so it is valid TOML 1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter

from ..values import dataclass

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_COMMA = re.compile(rf"{_BLANK.pattern},?{_BLANK.pattern}")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


def find_places(text: str) -> dict[KeyPath, Place]:
    """Return the first place of each key of `text`, a valid TOML document; items of arrays are numbered."""
    return _Walk(text).places


class _Walk:
    """One pass through a document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tables: Counter[KeyPath] = Counter()
        self.places: dict[KeyPath, Place] = {}
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(text):
            table = self._header() if self._sees("[") else self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        """Return the path of a `[table]` or an `[[array of tables]]`."""
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        self._skip(_SPACE)
        path = self._keys(())
        self._at = self._text.index("]", self._at) + (2 if is_array else 1)
        if is_array:
            self._tables[path] += 1
            path = (*path, self._tables[path] - 1)

        return path

    def _pair(self, table: KeyPath) -> KeyPath:
        path = self._keys(table)
        self._at = self._text.index("=", self._at) + 1
        self._value(path)
        return table

    def _keys(self, path: KeyPath) -> KeyPath:
        """Read a dotted key, and record the place of each part."""
        while True:
            start = self._at
            found = _BARE.match(self._text, start) or _STRING.match(self._text, start)
            assert found is not None
            self._at = found.end()
            name = found[0] if found[0][0] not in "\"'" else next(iter(tomllib.loads(f"{found[0]} = 0")))
            # A name of an array of tables means the last of them.
            path = (*path, self._tables[path] - 1, name) if self._tables[path] else (*path, name)
            self._note(path, start)
            self._skip(_SPACE)
            if not self._sees("."):
                return path

            self._at += 1
            self._skip(_SPACE)

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        if self._sees("["):
            self._array(path)
        elif self._sees("{"):
            self._inline_table(path)
        else:
            self._skip(_STRING if self._text[self._at] in "\"'" else _SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        number = 0
        self._skip(_BLANK)
        while not self._sees("]"):
            self._note((*path, number), self._at)
            self._value((*path, number))
            number += 1
            self._skip(_COMMA)

        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        while not self._sees("}"):
            self._pair(path)
            self._skip(_COMMA)

        self._at += 1

    def _note(self, path: KeyPath, start: int) -> None:
        line_start = self._text.rfind("\n", 0, start) + 1
        self.places.setdefault(path, Place(self._text.count("\n", 0, start) + 1, start - line_start + 1))

    def _sees(self, character: str) -> bool:
        return self._text.startswith(character, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
