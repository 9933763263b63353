"""Control sequences of terminals besides those of rich: whole frames, the title of the window, the taskbar."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from ...progress.forecast import expected_images, likely_images
from ...progress.run import RunProgress
from ...text import escape_controls

# Terminals without synchronized updates ignore the mode.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# The title is pushed on a stack of the terminal, and taken from there at the end (xterm's control sequences, CSI t).
_PUSH_TITLE, _POP_TITLE = "\x1b[22;2t", "\x1b[23;2t"
_TITLE, _TASKBAR, _TERMINATOR = "\x1b]2;", "\x1b]9;4;", "\x1b\\"
_TITLED = ("xterm", "tmux", "screen", "rxvt", "alacritty", "foot", "kitty", "wezterm", "ghostty")
# Others show OSC 9 as a notification.
_TASKBAR_VARIABLES = ("WT_SESSION", "ConEmuPID")
_TASKBAR_PROGRAMS = ("ghostty", "WezTerm")


class Controls:
    """The control sequences that a terminal understands, none for a file."""

    def __init__(self, console: Console, environment: Mapping[str, str] = os.environ) -> None:
        self._console = console
        is_terminal = console.is_terminal and not console.is_dumb_terminal
        self._is_synchronized = is_terminal
        self._has_title = is_terminal and environment.get("TERM", "").startswith(_TITLED)
        self._has_taskbar = is_terminal and (
            any(environment.get(name) for name in _TASKBAR_VARIABLES)
            or environment.get("TERM_PROGRAM") in _TASKBAR_PROGRAMS
        )
        self._title = ""

    def begin(self) -> None:
        """Keep the title of the window for the end."""
        self._write(_PUSH_TITLE if self._has_title else "")

    def end(self) -> None:
        """Restore the title of the window and the taskbar."""
        taskbar = f"{_TASKBAR}0{_TERMINATOR}" if self._has_taskbar else ""
        self._write((_POP_TITLE if self._has_title else "") + taskbar)

    def show(self, progress: RunProgress) -> None:
        """Show the progress in the title of the window and in the taskbar, if it has changed."""
        share = _share(progress)
        done = f"{share}% " if share is not None else ""
        subject = "" if progress.run is None else f" {progress.run.organization}"
        title = f"{done}quaymirror{subject}".encode("ascii", "replace").decode()
        if title == self._title:
            return

        self._title = title
        text = f"{_TITLE}{escape_controls(title)}{_TERMINATOR}" if self._has_title else ""
        self._write(text + (f"{_TASKBAR}1;{share or 0}{_TERMINATOR}" if self._has_taskbar else ""))

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """Let the terminal show everything that is written in the context at once."""
        self._write(_BEGIN if self._is_synchronized else "")
        try:
            yield
        finally:
            # In the first column, an echoed ^C does not wrap, which would move the frame.
            self._write(f"\r{_END}" if self._is_synchronized else "")

    def _write(self, text: str) -> None:
        if text:
            self._console.file.write(text)
            self._console.file.flush()


def _share(progress: RunProgress) -> int | None:
    """Return the percentage of finished images, None if it is not known."""
    if expected_images(progress) is None or not likely_images(progress):
        return None

    return 100 * progress.done // likely_images(progress)
