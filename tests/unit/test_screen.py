"""The terminals that a dashboard can be drawn on, and the display on others."""

from __future__ import annotations

import io
import sys

import pytest

from quaymirror.cli.display import make_display
from quaymirror.cli.observers import RunObservers
from quaymirror.events import Notice, ignore
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.run import RunProgress
from quaymirror.settings import OutputOptions


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("progress", ["auto", "rich"])
@pytest.mark.parametrize(("is_terminal", "term"), [(False, "xterm"), (True, "dumb"), (True, "unknown")])
def test_without_a_screen_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, progress: str, is_terminal: bool, term: str
) -> None:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)
    make_display(OutputOptions(progress=progress), CombinedProgress([RunProgress()])).observe(Notice("look"))

    assert stream.getvalue() == "notice     look\n"


def test_what_several_runs_are_told_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, event = Stream(is_terminal=False), Notice("look")
    monkeypatch.setattr(sys, "stderr", stream)
    runs = RunObservers(OutputOptions(progress="plain"), lambda: ignore, [None, None])
    for handle in runs.handles:
        handle.observe(event)

    runs.handles[0].observe(Notice("look"))
    assert stream.getvalue() == "notice     look\n" * 2
