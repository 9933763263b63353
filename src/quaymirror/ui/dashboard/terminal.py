"""The display on a terminal: draws frames at its own pace."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...progress.combined import CombinedProgress
from ...progress.images import received_by_image
from ...progress.rates import Rates, Speeds
from ...progress.run import RunProgress
from ...text import escape_controls
from .attention import attention
from .controls import Controls
from .rows import FULL_HEIGHT, FULL_WIDTH, Frame, View, encodable
from .totals import full_totals, small_totals
from .transfers import finished, transfers


def render(
    progress: RunProgress,
    speeds: Speeds,
    *,
    width: int,
    height: int,
    now: float,
    ascii_only: bool = False,
    runs: Sequence[RunProgress] = (),
) -> Frame:
    """Return a frame of a run at `now` (a time of its clock), within `width` cells and `height` rows.

    A small frame keeps the totals. `ascii_only` is for consoles that aren't UTF-8; `runs` are those that `progress` is
    the sum of.
    """
    view = View(progress, speeds, width, height, now, ascii_only, runs)
    is_full = width >= FULL_WIDTH and height >= FULL_HEIGHT
    rows = full_totals(view) if is_full else small_totals(view)
    for section in (attention, transfers, finished):
        added = section(view, height - len(rows) - is_full)
        rows += [view.row(), *added] if added and is_full else added

    return Frame([row.segments for row in rows[:height]])


class Screen:
    """A terminal on which frames replace each other; closing it removes the last one."""

    def __init__(self, console: Console | None = None) -> None:
        # rich takes FORCE_COLOR for a terminal, and would move the cursor in a file.
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._size = self._console.size
        self._controls = Controls(self._console)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Screen:
        self._controls.begin()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._controls.end()

    def show(self, progress: RunProgress, speeds: Speeds, now: float, runs: Sequence[RunProgress] = ()) -> None:
        """Draw a run, or the sum of `runs`, at `now`, a time of its clock."""
        if self._size != self._console.size:
            # The terminal has wrapped the old rows anew, so that their position is unknown.
            self._size = self._console.size
            self._console.clear()

        self._controls.show(progress)
        with self._controls.one_update():
            self._live.update(self.frame(progress, speeds, now, runs), refresh=True)

    def frame(self, progress: RunProgress, speeds: Speeds, now: float, runs: Sequence[RunProgress] = ()) -> Frame:
        """Return the frame in the current size of the console."""
        width, height = self._console.size
        # One row less, because a display as high as the terminal would scroll its first row out of reach.
        ascii_only = self._console.options.ascii_only
        return render(
            progress, speeds, width=width, height=max(1, height - 1), now=now, ascii_only=ascii_only, runs=runs
        )

    def print(self, line: str) -> None:
        """Print `line` above the frame, escaped; only the terminal wraps it."""
        text = encodable(escape_controls(line), ascii_only=self._console.options.ascii_only)
        self._console.print(Text(text), soft_wrap=True, markup=False, highlight=False)


class Dashboard:
    """A display that draws runs four times per second while `run` is running, on stderr without a `console`.

    If frames take long, because the machine or the terminal is slow, fewer are drawn, at least one per second. All of
    it is called by one event loop; nothing starts a thread.
    """

    PERIOD_SECONDS = 0.25
    LONGEST_SECONDS = 1.0
    SHARE = 0.03
    """The part of the time that frames may take."""

    def __init__(
        self,
        progress: CombinedProgress,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._screen = Screen(console)
        self._clock = clock
        self._rates = Rates()

    def print(self, line: str) -> None:
        """Print `line` above the dashboard, escaped."""
        self._screen.print(line)

    async def run(self) -> None:
        """Draw until the runs have ended or this is cancelled; then remove the frame and restore the cursor."""
        with self._screen:
            while self._progress.now().finished is None:
                progress, now = self._progress.now(), self._clock()
                self._rates.sample(now, progress.meters.fetched_bytes)
                self._rates.sample_images(now, received_by_image(progress.work, progress.meters.in_flight))
                self._screen.show(progress, self._rates.speeds, now, self._progress.runs)
                await anyio.sleep(self.pause_after(self._clock() - now))

    def pause_after(self, seconds: float) -> float:
        """Return the seconds until the next frame, if the last one took `seconds`."""
        return max(self.PERIOD_SECONDS, min(seconds / self.SHARE, self.LONGEST_SECONDS))
