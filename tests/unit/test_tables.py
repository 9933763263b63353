"""Tables on terminals that are too narrow for them."""

from __future__ import annotations

import io
import sys

import pytest

from quaymirror.cli.tables import narrowed_table

SELECTION = "kolla/nova-*:2025.1-debian"
ROWS = [
    ("run", "mirrored", "skipped", "refused", "selection"),
    ("8e3f8aa7", "22", "60", "0", SELECTION),
    ("99ac1e4d", "60", "60", "0", "kolla/*:x"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("columns", "head", "selection"),
    [
        (80, "run mirrored skipped refused selection", SELECTION),
        (60, "run mirrored skipped refused selection", "kolla/nova…25.1-debian"),
        (44, "run mirrored skipped selection", "kolla/n…-debian"),
        (35, "run mirrored selection", "kolla/n…-debian"),
        (5, "run mirrored selection", "kolla…debian"),
    ],
)
def test_a_narrow_terminal_leaves_out_columns_and_those_without_content_first(
    columns: int, head: str, selection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", Terminal())
    lines = narrowed_table(ROWS, optional=("skipped", "refused"))

    assert lines[0].split() == head.split()
    assert lines[1].split()[-1] == selection
    assert columns < 20 or max(map(len, lines)) <= columns
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert len(narrowed_table(ROWS, optional=("skipped", "refused"))[0].split()) == 5
