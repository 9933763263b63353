"""When a frame is drawn, and where."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...events import Event
from ...progress.meters import Progress
from ...text import escape_controls
from ..state import Rates, RunState
from .frame import render
from .rows import Frame, encodable


def _console() -> Console:
    # By itself rich takes FORCE_COLOR for a terminal, and would move a cursor in a file.
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


class Screen:
    """A terminal that frames are drawn on, one over the other; when it is closed, they are gone."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()
        self._size = self._console.size
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, state: RunState, meters: Progress, rates: Rates, now: float) -> None:
        """Draw the run as it is at `now`, a time of its own clock."""
        if self._size != self._console.size:
            # The terminal has broken the old rows anew: how many they are now, and where, nobody knows.
            self._size = self._console.size
            self._console.clear()

        self._live.update(self.frame(state, meters, rates, now), refresh=True)

    def frame(self, state: RunState, meters: Progress, rates: Rates, now: float) -> Frame:
        """Return the picture, as large as the console is now."""
        width, height = self._console.size
        # One row less: ending a display as high as the terminal would scroll its first row out of reach.
        ascii_only = self._console.options.ascii_only
        return render(state, meters, rates, width=width, height=max(1, height - 1), now=now, ascii_only=ascii_only)

    def print(self, line: str) -> None:
        """Print `line` above, as one line, escaped: a terminal wraps it, nothing else does."""
        text = encodable(escape_controls(line), ascii_only=self._console.options.ascii_only)
        self._console.print(Text(text), soft_wrap=True, markup=False, highlight=False)


class Dashboard:
    """An observer that draws a run, or several at once, on a terminal four times a second while `run` is running.

    Without a `console` it draws on stderr. One event loop calls all of it; nothing here starts a thread.
    """

    PERIOD_SECONDS = 0.25

    def __init__(
        self,
        meters: Progress,
        *,
        runs: int = 1,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = RunState(clock, runs)
        self._meters = meters
        self._screen = Screen(console)
        self._clock = clock
        self._rates = Rates(meters, clock=clock)

    def __call__(self, event: Event) -> None:
        """Count `event`; the next frame shows it."""
        self.state.apply(event)

    def print(self, line: str) -> None:
        """Print `line` above the dashboard, escaped."""
        self._screen.print(line)

    def frame(self) -> Frame:
        """Return the picture of this moment, as large as the console is now."""
        self._rates.sample()
        return self._screen.frame(self.state, self._meters, self._rates, self._clock())

    async def run(self) -> None:
        """Draw until the run has finished or this is cancelled; then remove the picture and restore the cursor."""
        with self._screen:
            while self.state.finished is None:
                self._rates.sample()
                self._screen.show(self.state, self._meters, self._rates, self._clock())
                await anyio.sleep(self.PERIOD_SECONDS)
