"""The progress line of commands that are no runs."""

from __future__ import annotations

import io
import sys

import anyio
import pytest

from quaymirror.cli import progress_line
from quaymirror.cli.progress_line import Counter
from quaymirror.progress.rates import Rates


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def half(counter: Counter) -> None:
    counter.text, counter.done, counter.total = "1 of 2 blobs", 512, 1024


def test_bytes_have_a_rate_and_a_time_left_in_the_line() -> None:
    counter, rates = Counter(), Rates()
    assert counter.line(rates) == ""
    half(counter)
    counter.is_bytes = True
    for second in range(3):
        rates.sample(second, second * 128)

    assert counter.line(rates) == " 50%  1 of 2 blobs, 512 B of 1.0 KiB, 128 B/s, 4 s left"
    assert counter.bar == "[==========          ] "


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_a_terminal_has_one_line_that_is_removed_and_a_log_has_lines(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_line, "_FRAME_SECONDS", 0)
    monkeypatch.setattr(progress_line, "_LINE_SECONDS", 0)
    async with progress_line.progress_line(half):
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    text = stream.getvalue()
    if is_terminal:
        assert "\r\x1b[K[==========          ]  50%  1 of 2 blobs" in text
        assert text.endswith("\r\x1b[K")
        assert "\n" not in text
    else:
        assert "quaymirror: 50%  1 of 2 blobs\n" in text
        assert "\x1b" not in text
