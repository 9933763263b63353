"""The progress line of commands that are no runs."""

from __future__ import annotations

import io
import sys

import anyio
import pytest

from quaymirror.carry.progress import CarryProgress
from quaymirror.cli import carry, listing, progress_line
from quaymirror.cli.progress_line import Counter
from quaymirror.cli.tables import JsonRows
from quaymirror.events import CandidateChecked, PageListed, TagChecked
from quaymirror.oci import Reference, Repository
from quaymirror.progress.rates import Rates
from quaymirror.progress.run import RunProgress


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


def test_a_listing_counts_repositories_and_images() -> None:
    progress, counter = RunProgress(), Counter()
    listing._update(progress, counter)
    assert counter.line(Rates()) == ""
    progress.apply(PageListed(number=1, repositories=100, matched=2))
    progress.apply(CandidateChecked(repository="kolla/nova", images=1))
    progress.apply(TagChecked(Reference(Repository("quay.io", "kolla/nova"), tag="1")))
    listing._update(progress, counter)
    assert counter.line(Rates()) == " 50%  1 of 2 repositories checked, 1 image"


def test_an_export_counts_parts_and_bytes_and_an_inventory_blobs() -> None:
    counter, rates = Counter(), Rates()
    carry._update(CarryProgress(blobs=2), counter)
    assert counter.line(rates) == "2 blobs"
    for second in range(3):
        rates.sample(second, second * 256)

    carry._update(CarryProgress(bytes=512, total_bytes=1024, part=1, parts=2), counter)
    assert counter.line(rates) == " 50%  part 1 of 2, 512 B of 1.0 KiB, 256 B/s, 2 s left"


async def test_a_row_on_the_same_terminal_is_not_mixed_with_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_line, "_FRAME_SECONDS", 0)
    progress = RunProgress()
    progress.apply(PageListed(number=1, repositories=1, matched=1))
    shown = []
    for rows in (None, JsonRows(as_lines=True)):
        monkeypatch.setattr(sys, "stdout", Stream(is_terminal=True))
        stderr = Stream(is_terminal=True)
        monkeypatch.setattr(sys, "stderr", stderr)
        async with listing._progress(rows, progress):
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

        shown.append(stderr.getvalue())

    assert "0 of 1 repository checked" in shown[0]
    assert shown[1] == ""
